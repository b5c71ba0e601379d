"""Every dense family: the fixtures give the references' logits, ids, states and NFE.

The arrays in tests/golden/<family>/expected.npz were recorded from the families' own code; its
README.md there says how.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_of_checkpoint
import numpy as np
import pytest

import edge
import edge.backends.base
from convert import convert
from edge.canvas import RowStats
from edge.engine import Session

GOLDEN = Path(__file__).parents[1] / "golden"
MASK = 245
ABSOLUTE = {"attention": "block", "block_align": "absolute", "sampler": "low_confidence_dynamic"}
# family -> architecture, diffusion.* keys of the file
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "dream": ("dream", {"sampler": "timestep", "rank": "entropy", "block_length": 512}),
    "a2d_qwen3_mdlm": ("edge-qwen3", {"sampler": "linear_schedule"}),
    "a2d_qwen3_bd3lm": (
        "edge-qwen3",
        {"sampler": "linear_schedule", "attention": "block", "block_length": 8},
    ),
    "sdar": ("edge-qwen3", {**ABSOLUTE, "block_length": 4}),
    "fast_dllm_v2": (
        "edge-qwen2",
        {**ABSOLUTE, "block_length": 8, "sub_block_length": 4, "shift_logits": True},
    ),
}


Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write() -> Write:
    """``write(family, out, kind, **changes)``: the fixture as a GGUF."""

    def make(family: str, out: Path, kind: str, **changes: Any) -> Path:
        architecture, diffusion = FAMILIES[family]
        keys = {**diffusion, **changes}
        gguf_of_checkpoint.write_gguf(GOLDEN / family, out, architecture, kind, MASK, **keys)
        return out

    return make


@pytest.fixture(scope="module")
def files(write: Write, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("families")
    return {
        (family, kind): write(family, folder / f"{family}-{kind}.gguf", kind)
        for family in FAMILIES
        for kind in ("f32", "q8_0", "q4_0")
    }


def expected(family: str) -> Any:
    return np.load(GOLDEN / family / "expected.npz")


def states_of(model: edge.Model, prompt: Any, **options: Any) -> tuple[Any, edge.Result]:
    states: list[Any] = []
    result = model.generate_ids(
        prompt, reference=True, on_step=lambda draft: states.append(draft.ids), **options
    )
    return np.array(states), result


@pytest.mark.parametrize("isa", ["default", "generic"])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("dream", "logits_raw"),
        ("a2d_qwen3_mdlm", "logits"),
        ("sdar", "logits"),
        ("fast_dllm_v2", "logits"),
    ],
)
def test_logits(
    files: dict[tuple[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    name: str,
    isa: str,
) -> None:
    if isa != "default":
        monkeypatch.setenv("EDGE_ISA", isa)
    data = expected(family)
    with edge.load(files[family, "f32"]) as model:
        assert np.abs(model.logits(data["x"]) - data[name]).max() < 1e-4


def test_logits_of_blocks_that_end_with_the_prompt(files: dict[tuple[str, str], Path]) -> None:
    data = expected("a2d_qwen3_bd3lm")
    padding = int((~data["attn_mask"].diagonal()).sum())
    with edge.load(files["a2d_qwen3_bd3lm", "f32"]) as model:
        logits = model.logits(data["x"][padding:], context_length=len(data["prompt"]))
    assert np.abs(logits - data["logits"][padding:]).max() < 1e-4


@pytest.mark.parametrize("steps", [20, 7])
@pytest.mark.parametrize(
    ("algorithm", "rank"),
    [("maskgit_plus", "confidence"), ("topk_margin", "margin"), ("entropy", "entropy")],
)
def test_dream_runs(
    files: dict[tuple[str, str], Path], algorithm: str, rank: str, steps: int
) -> None:
    data = expected("dream")
    with edge.load(files["dream", "f32"]) as model:
        states, result = states_of(model, data["prompt"], max_tokens=20, steps=steps, rank=rank)
    np.testing.assert_array_equal(states, data[f"gen_{algorithm}_{steps}"])
    assert result.stats.nfe == steps


@pytest.mark.parametrize(("length", "steps"), [(8, 24), (24, 7)])
def test_mdlm_runs(files: dict[tuple[str, str], Path], length: int, steps: int) -> None:
    data = expected("a2d_qwen3_mdlm")
    with edge.load(files["a2d_qwen3_mdlm", "f32"]) as model:
        states, result = states_of(
            model, data["prompt"], max_tokens=24, steps=steps, block_length=length
        )
    np.testing.assert_array_equal(states, data[f"gen_b{length}_s{steps}"][1:])
    assert result.stats.nfe == steps


def test_bd3lm_run(files: dict[tuple[str, str], Path]) -> None:
    data = expected("a2d_qwen3_bd3lm")
    with edge.load(files["a2d_qwen3_bd3lm", "f32"]) as model:
        states, _ = states_of(model, data["prompt"], max_tokens=24, steps=24)
    recorded = data["gen_states"][:, -states.shape[1] :]
    # The reference appends a block of masks only when it comes to it.
    as_ours = np.where(recorded == -1, MASK, recorded)
    assert [state.tolist() in as_ours.tolist() for state in states] == [True] * 24
    np.testing.assert_array_equal(states[-1], as_ours[-1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("static4", {"sampler": "low_confidence_static", "steps_per_block": 4}),
        ("static2", {"sampler": "low_confidence_static", "steps_per_block": 2}),
        ("dyn", {"threshold": 0.35, "steps_per_block": 4}),
    ],
)
def test_sdar_runs(files: dict[tuple[str, str], Path], name: str, options: dict[str, Any]) -> None:
    data = expected("sdar")
    with edge.load(files["sdar", "f32"]) as model:
        _, result = states_of(model, data["prompt"], max_tokens=18, **options)
    assert [*data["prompt"], *result.ids] == data[f"gen_{name}"].tolist()
    assert result.stats.nfe == data[f"nfe_{name}"]


@pytest.mark.parametrize(("name", "threshold"), [("seq", 1.0), ("thr", 0.1)])
def test_fast_dllm_runs(files: dict[tuple[str, str], Path], name: str, threshold: float) -> None:
    data = expected("fast_dllm_v2")
    with edge.load(files["fast_dllm_v2", "f32"]) as model:
        _, result = states_of(model, data["prompt"], max_tokens=22, threshold=threshold)
    assert [*data["prompt"], *result.ids] == data[f"gen_{name}"].tolist()
    assert result.stats.nfe == data[f"nfe_{name}"]


def uncached_forward(self: Session, start: int, stop: int, head_rows: Any, **options: Any) -> Any:
    """Session._forward without a cache: all before ``stop`` is computed anew, each time."""
    if options.get("store") and not len(head_rows):
        return RowStats(*[np.empty(0, np.int32)] * 5)
    mask = self._mask_of_prompt
    if mask.kind == "causal_context":
        causal = options.get("mask") is not None and options["mask"].kind == "causal"
        mask = edge.backends.base.Mask("causal_context", origin=stop if causal else start)
    request = edge.backends.base.StepRequest(
        ids=self._canvas.ids[:stop],
        positions=np.arange(stop, dtype=np.int32),
        head_rows=(head_rows + start).astype(np.int32),
        draws=self._draws,
        mask=mask,
    )
    return self._backend.forward(request)


CAUSAL = {"attention": "causal_context"}
CACHING = [
    ("a2d_qwen3_bd3lm", {}),
    ("sdar", {}),
    ("fast_dllm_v2", {}),
    ("sdar", CAUSAL),
    ("fast_dllm_v2", CAUSAL),
]


@pytest.mark.parametrize("max_tokens", [1, 5, 22])
@pytest.mark.parametrize(("family", "extra"), CACHING)
def test_cached_equals_uncached(
    tmp_path: Path,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    extra: dict[str, str],
    max_tokens: int,
) -> None:
    out = write(family, tmp_path / "model.gguf", "q8_0", **extra)
    for prompt_length in (0, 1, 7, 8, 11):
        prompt = expected(family)["prompt"][:prompt_length]
        with edge.load(out) as model:
            cached = model.generate_ids(prompt, max_tokens=max_tokens, eos="forbid")
            with monkeypatch.context() as patch:
                patch.setattr(Session, "_forward", uncached_forward)
                uncached = model.generate_ids(prompt, max_tokens=max_tokens, eos="forbid")
        assert cached.ids == uncached.ids
        assert len(cached.ids) == max_tokens
        assert MASK not in cached.ids


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_threads_and_activations(
    files: dict[tuple[str, str], Path], family: str, kind: str
) -> None:
    """112 columns are no whole number of groups: such tensors stay f16 and still run."""
    ids = expected(family)["x"]
    runs = []
    for threads in (1, 2, 4):
        with edge.load(files[family, kind], threads=threads) as model:
            runs.append(model.logits(ids))
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])
    with edge.load(files[family, kind], activations="f32") as model:
        exact = model.logits(ids)
    assert 0 < np.abs(exact - runs[0]).max() < 1.0


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_converter_makes_the_same_denoiser(
    files: dict[tuple[str, str], Path], tmp_path: Path, family: str
) -> None:
    """Keys of the file that no config.json says are given; the rest is the family's default."""
    said = {
        "a2d_qwen3_bd3lm": {"diffusion.attention": "block", "diffusion.block_length": "8"},
        "fast_dllm_v2": {"diffusion.sub_block_length": "4"},
    }
    out = tmp_path / "model.gguf"
    convert(GOLDEN / family, out, "q8_0", overrides=said.get(family, {}), mask_token_id=MASK)
    data = expected(family)
    with edge.load(files[family, "q8_0"]) as ours, edge.load(out) as converted:
        np.testing.assert_array_equal(ours.logits(data["x"]), converted.logits(data["x"]))
        runs = [
            model.generate_ids(data["prompt"], max_tokens=12, eos="forbid").ids
            for model in (ours, converted)
        ]
    assert runs[0] == runs[1]

"""Whatever is combined: whole answers, no mask token, within the plan, the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf_of_checkpoint
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge
from edge import _native, samplers
from edge.errors import RequestError

GOLDEN = Path(__file__).parents[1] / "golden"
MASK = 245
BLOCK: dict[str, Any] = {"attention": "block", "block_align": "absolute", "block_length": 8}
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "full": ("a2d_qwen3_mdlm", "edge-qwen3", {"block_length": 8}),
    "full, shifted": ("dream", "dream", {"block_length": 16}),
    "block": ("sdar", "edge-qwen3", BLOCK),
    "block to the prompt's end": ("a2d_qwen3_bd3lm", "edge-qwen3", {**BLOCK, "block_align": None}),
    "block, shifted, sub-blocks": (
        "fast_dllm_v2",
        "edge-qwen2",
        {**BLOCK, "sub_block_length": 4, "shift_logits": True},
    ),
    "causal context": ("sdar", "edge-qwen3", {"attention": "causal_context", "block_length": 8}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[edge.Model]]:
    """Of each shape: the best instruction set with one thread, then the others with more."""
    folder = tmp_path_factory.mktemp("shapes")
    opened: dict[str, list[edge.Model]] = {}
    for name, (family, architecture, changes) in SHAPES.items():
        out = folder / f"{len(opened)}.gguf"
        keys = {key: value for key, value in changes.items() if value is not None}
        gguf_of_checkpoint.write_gguf(GOLDEN / family, out, architecture, "q8_0", MASK, **keys)
        opened[name] = []
        with pytest.MonkeyPatch.context() as patch:
            for number, isa in enumerate(_native.supported_isas(), start=1):
                patch.setenv("EDGE_ISA", isa)
                opened[name].append(edge.load(out, threads=number))
    return opened


options = st.fixed_dictionaries(
    {
        "sampler": st.sampled_from(
            [name for name in samplers.names() if not samplers.decodes_in_order(name)]
        ),
        "early_stop": st.sampled_from(["none", "stable", "schedule"]),
        "remask": st.sampled_from(["none", "conf"]),
        "credit": st.booleans(),
        "cache": st.sampled_from(["exact", "dual"]),
        "steps": st.integers(8, 24),  # at least one for each sub-block
        "eos": st.sampled_from(["stop", "late", "forbid"]),
    }
)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shape=st.sampled_from(list(SHAPES)), length=st.integers(0, 19), chosen=options)
def test_every_combination_ends_well(
    models: dict[str, list[edge.Model]], shape: str, length: int, chosen: dict[str, Any]
) -> None:
    if not shape.startswith("full"):
        chosen["cache"] = "exact"
    prompt = np.arange(length, dtype=np.int32)
    runs = [model.generate_ids(prompt, max_tokens=21, **chosen) for model in models[shape]]
    for run in runs:
        stats = run.stats
        assert run.status in ("complete", "eos")
        assert MASK not in run.ids
        assert len(run.ids) == 21 or run.status == "eos"
        assert stats.steps <= chosen["steps"]
        assert stats.nfe <= stats.steps + 1 + 4  # the prompt and blocks that are stored
        assert stats.cache in ("exact", chosen["cache"])
        assert run.ids == runs[0].ids
        assert stats.mean_confidence == runs[0].stats.mean_confidence


@pytest.mark.parametrize("option", [{}, {"credit": True}, {"early_stop": "schedule"}])
@pytest.mark.parametrize("shape", ["block", "block to the prompt's end"])
def test_fused_or_not_with_remasking(
    models: dict[str, list[edge.Model]], shape: str, option: dict[str, Any]
) -> None:
    """A block is stored as it is after its tokens were decided anew."""
    asked = {"max_tokens": 30, "sampler": "low_confidence_dynamic", "threshold": 0.2, **option}
    model = models[shape][0]
    runs = [
        model.generate_ids(range(5), remask="conf", fused=fused, eos="forbid", **asked)
        for fused in (True, False)
    ]
    assert runs[0].ids == runs[1].ids
    assert runs[0].stats.mean_confidence == runs[1].stats.mean_confidence
    assert runs[0].stats.remasked_tokens == runs[1].stats.remasked_tokens > 0
    assert runs[0].stats.nfe < runs[1].stats.nfe


def test_credit_needs_temperature_zero(models: dict[str, list[edge.Model]]) -> None:
    with pytest.raises(RequestError, match="credit is given, but temperature is not 0"):
        models["full"][0].generate_ids([1], max_tokens=4, credit=True, temperature=0.5)

"""Storing a finished block in the first forward of the next one: same bits, fewer forwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_of_checkpoint
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edge
from edge import _native
from edge.engine import Session
from edge.errors import RequestError

GOLDEN = Path(__file__).parents[1] / "golden"
MASK = 245
LENGTH = 56
IDS = np.random.default_rng(7).integers(0, 38, LENGTH).astype(np.int32)
BLOCK = {"attention": "block", "sampler": "low_confidence_dynamic"}
FAMILIES = {
    "sdar": {**BLOCK, "block_align": "absolute", "block_length": 4},
    "a2d_qwen3_bd3lm": {**BLOCK, "block_length": 8},
}

Step = Callable[..., _native.StepOutput]
Fields = Callable[..., dict[str, NDArray[Any]]]
Content = Callable[[_native.KvCache], list[NDArray[Any]]]


@pytest.fixture(scope="module", params=["f32", "q8_0"])
def path(
    request: pytest.FixtureRequest,
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
) -> Path:
    return converted(checkpoint(n_kv_heads=2, n_layers=3), request.param)


@pytest.fixture(scope="module")
def engines(
    path: Path, denoiser: Callable[..., _native.Denoiser]
) -> list[tuple[str, _native.Denoiser]]:
    """The best instruction set comes first, then the others, with other numbers of threads."""
    isas = _native.supported_isas()
    return [(isa, denoiser(path, isa=isa, threads=1 + i % 3)) for i, isa in enumerate(isas)]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(1, 9), st.integers(0, 12), st.integers(1, 3), st.data())
def test_rows_and_cache_are_those_of_two_forwards(
    engines: list[tuple[str, _native.Denoiser]],
    step: Step,
    head_fields: Fields,
    cache_content: Content,
    length: int,
    origin: int,
    num_unstored: int,
    data: st.DataObject,
) -> None:
    """``num_unstored`` blocks, the first perhaps ragged, then a block that may end early."""
    first = origin % length
    stored = first + length * data.draw(st.integers(0, 1))
    start = stored + length * num_unstored
    stop = min(LENGTH, start + data.draw(st.integers(1, length)))
    mask = _native.AttentionMask("block", length, origin)
    wanted: dict[str, NDArray[Any]] = {}
    for isa, model in engines:
        two, one = _native.KvCache(model, LENGTH), _native.KvCache(model, LENGTH)
        for cache in (two, one):
            if stored:
                step(model, IDS[:stored], [*range(stored)], [], cache=cache, store=True, mask=mask)
        step(model, IDS[stored:start], range(stored, start), [], cache=two, store=True, mask=mask)
        apart = head_fields(step(model, IDS[start:stop], range(start, stop), cache=two))
        fused = head_fields(
            step(
                model,
                IDS[stored:stop],
                range(stored, stop),
                range(start - stored, stop - stored),
                cache=one,
                store=True,
                num_stored=start - stored,
                mask=mask,
            )
        )
        wanted = wanted or apart
        for name, values in wanted.items():
            assert np.array_equal(values, fused[name]), (isa, name)
            assert np.array_equal(values, apart[name]), (isa, name)
        for mine, other in zip(cache_content(one), cache_content(two), strict=True):
            assert np.array_equal(mine, other)


@pytest.mark.parametrize("num_stored", [-1, 6, 1 << 40])
def test_impossible_numbers_of_stored_rows(
    engines: list[tuple[str, _native.Denoiser]], step: Step, num_stored: int
) -> None:
    model = engines[0][1]
    cache = _native.KvCache(model, LENGTH)
    with pytest.raises(ValueError, match="number of stored rows"):
        step(model, IDS[:5], cache=cache, store=True, num_stored=num_stored)
    with pytest.raises(ValueError, match="number of stored rows"):
        step(model, IDS[:5], cache=cache, num_stored=2)
    assert not cache.valid().any()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., edge.Model]:
    """``model(family, **changes)``: a fixture of the recorded families, opened."""
    folder = tmp_path_factory.mktemp("fused")

    def make(family: str, **changes: Any) -> edge.Model:
        keys = {**FAMILIES[family], **changes}
        out = folder / f"{family}-{len(list(folder.iterdir()))}.gguf"
        gguf_of_checkpoint.write_gguf(GOLDEN / family, out, "edge-qwen3", "q8_0", MASK, **keys)
        return edge.load(out)

    return make


def run(model: edge.Model, prompt: Any, **options: Any) -> tuple[edge.Result, list[Any]]:
    states: list[Any] = []
    keep = lambda draft: states.append((draft.ids, draft.draft_ids, draft.confidence))  # noqa: E731
    return model.generate_ids(prompt, on_step=keep, **options), states


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}, {"steps_per_block": 2}])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_results_states_and_statistics(
    model: Callable[..., edge.Model], family: str, options: dict[str, Any]
) -> None:
    prompt = np.load(GOLDEN / family / "expected.npz")["prompt"]
    with model(family) as loaded:
        for length in (0, 1, 4, 11):
            plain, states = run(loaded, prompt[:length], max_tokens=22, fused=False, **options)
            fused, same = run(loaded, prompt[:length], max_tokens=22, **options)
            assert fused.ids == plain.ids
            for mine, other in zip(same, states, strict=True):
                for one, two in zip(mine, other, strict=True):
                    np.testing.assert_array_equal(one, two)
            assert fused.stats.nfe == fused.stats.steps == plain.stats.steps
            assert fused.stats.nfe < plain.stats.nfe
            kept = ("steps", "tokens", "forced_tokens", "mean_confidence", "cache")
            assert [getattr(fused.stats, n) for n in kept] == [
                getattr(plain.stats, n) for n in kept
            ]
            assert (fused.stats.prefill_ms > 0) == (plain.stats.prefill_ms > 0)


def test_a_cancelled_step_stores_nothing(
    model: Callable[..., edge.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[Any] = []

    class Watched(Session):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            caches.append(self._cache)

    monkeypatch.setattr("edge.engine.Session", Watched)
    cancel = _native.CancelFlag()
    with model("sdar") as loaded:
        events = loaded._run(
            np.arange(8, dtype=np.int32),
            {"max_tokens": 12, "steps_per_block": 1, "eos": "forbid", "cancel": cancel},
            0,
        )
        while not isinstance(next(events), edge.Draft):
            pass
        assert caches[0].valid().tolist() == [True] * 8 + [False] * 12
        cancel.set()
        done = list(events)[-1]
    assert isinstance(done, edge.Done)
    assert done.result.status == "cancelled"
    assert len(done.result.ids) == 4
    assert caches[0].valid().tolist() == [True] * 8 + [False] * 12


@pytest.mark.parametrize(
    "changes", [{"shift_logits": True}, {"attention": "causal_context"}, {"attention": "full"}]
)
def test_refused_where_it_is_not_exact(
    model: Callable[..., edge.Model], changes: dict[str, Any]
) -> None:
    with model("sdar", **changes) as loaded:
        with pytest.raises(RequestError, match="fused is asked for, but this model"):
            loaded.generate_ids([1, 2], max_tokens=4, fused=True)
        plain = loaded.generate_ids([1, 2], max_tokens=8, fused=False)
        default = loaded.generate_ids([1, 2], max_tokens=8)
    assert default.stats.nfe == plain.stats.nfe
    assert default.ids == plain.ids

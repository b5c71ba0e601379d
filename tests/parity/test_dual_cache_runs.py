"""Approximate reuse in real runs: what it computes, where it is exact after all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf_of_checkpoint
import numpy as np
import pytest

import edge
from edge import _native
from edge.backends.base import StepRequest
from edge.backends.native import NativeBackend
from edge.dual_cache import DualCache
from edge.errors import RequestError
from edge.plan import Plan

GOLDEN = Path(__file__).parents[1] / "golden"
MASK = 245
FAMILIES = {"dream": "dream", "a2d_qwen3_mdlm": "edge-qwen3"}
OPTIONS: dict[str, Any] = {
    "max_tokens": 48,
    "block_length": 16,
    "eos": "forbid",
    "sampler": "low_confidence_static",
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def path(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    family = request.param
    out = tmp_path_factory.mktemp("dual") / "model.gguf"
    gguf_of_checkpoint.write_gguf(GOLDEN / family, out, FAMILIES[family], "q8_0", MASK)
    return out


@pytest.fixture
def prompt() -> Any:
    return np.arange(40, dtype=np.int32)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[StepRequest]:
    """Every forward of the native backend, as it was asked for."""
    kept: list[StepRequest] = []
    forward = NativeBackend.forward

    def keeping(self: NativeBackend, request: StepRequest) -> Any:
        kept.append(request)
        return forward(self, request)

    monkeypatch.setattr(NativeBackend, "forward", keeping)
    return kept


def states(model: edge.Model, prompt: Any, **options: Any) -> tuple[edge.Result, list[Any]]:
    kept: list[Any] = []
    result = model.generate_ids(
        prompt, on_step=lambda d: kept.append((d.ids, d.draft_ids, d.confidence)), **options
    )
    return result, kept


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_refresh_at_every_step_is_exact(
    path: Path, prompt: Any, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    monkeypatch.setattr(Plan, "dual_cache", lambda p: DualCache(len(p.canvas), 16, max_steps=1))
    with edge.load(path) as model:
        dual, seen = states(model, prompt, cache="dual", temperature=temperature, **OPTIONS)
        monkeypatch.undo()
        exact, wanted = states(model, prompt, temperature=temperature, **OPTIONS)
    assert dual.ids == exact.ids
    for mine, other in zip(seen, wanted, strict=True):
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_array_equal(one, two)
    assert (dual.stats.cache, dual.stats.refreshes) == ("exact", dual.stats.nfe)
    assert (exact.stats.refreshes, exact.stats.cache_top1_disagreement) == (0, None)


def test_between_refreshes_the_block_and_its_surroundings_are_computed(
    path: Path, prompt: Any, requests: list[StepRequest]
) -> None:
    with edge.load(path) as model:
        result = model.generate_ids(prompt, cache="dual", cache_window=4, **OPTIONS)
        shift = int(model.config.diffusion.shift_logits)
    stats = result.stats
    assert stats.cache == "dual"
    assert stats.nfe == len(requests) == 48
    full = [request for request in requests if len(request.ids) == 88]
    assert stats.refreshes == len(full) < stats.nfe
    assert all(request.store for request in full)
    for request in requests:
        if len(request.ids) != 88:
            asked = int(request.positions[request.head_rows[-1]]) + shift
            block = 40 + (asked - 40) // 16 * 16
            assert not request.store
            assert request.positions[0] == block - 4
            assert request.positions[-1] == min(block + 20, 88) - 1
    assert stats.cache_top1_disagreement is not None
    assert 0 <= stats.cache_top1_disagreement <= 1
    assert MASK not in result.ids
    assert len(result.ids) == 48


def test_a_step_right_after_a_refresh_without_a_commit_is_exact(path: Path, prompt: Any) -> None:
    """The first approximate forward sees older keys of the committed token's surroundings only."""
    with edge.load(path) as model:
        dual, seen = states(model, prompt, cache="dual", **OPTIONS)
        exact, wanted = states(model, prompt, **OPTIONS)
    np.testing.assert_array_equal(seen[0][2], wanted[0][2])
    assert not np.array_equal(seen[1][2], wanted[1][2], equal_nan=True)
    assert dual.stats.nfe == exact.stats.nfe


def test_a_window_over_the_whole_canvas_is_exact(path: Path, prompt: Any) -> None:
    with edge.load(path) as model:
        dual = model.generate_ids(prompt, cache="dual", cache_window=88, **OPTIONS)
        exact = model.generate_ids(prompt, **OPTIONS)
    assert dual.ids == exact.ids
    assert dual.stats.cache == "exact"


def test_it_can_be_switched_off_midway(
    path: Path, prompt: Any, requests: list[StepRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DualCache] = []

    def make(plan: Plan) -> DualCache:
        made.append(DualCache(len(plan.canvas), 16))
        return made[0]

    def off(draft: edge.Draft) -> None:
        made[0].is_on = draft.step < 3

    monkeypatch.setattr(Plan, "dual_cache", make)
    with edge.load(path) as model:
        result = model.generate_ids(prompt, cache="dual", on_step=off, **OPTIONS)
    assert [len(request.ids) == 88 for request in requests] == [True, False, False] + [True] * 45
    assert result.stats.cache == "dual"


def test_a_cancelled_step_counts_for_nothing(
    path: Path, prompt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DualCache] = []

    def make(plan: Plan) -> DualCache:
        made.append(DualCache(len(plan.canvas), 16))
        return made[-1]

    monkeypatch.setattr(Plan, "dual_cache", make)
    for after in (1, 2):
        cancel = _native.CancelFlag()
        with edge.load(path) as model:
            result = model.generate_ids(
                prompt,
                cache="dual",
                cancel=cancel,
                on_step=lambda d, c=cancel, n=after: c.set() if d.step == n else None,
                **OPTIONS,
            )
        assert result.status == "cancelled"
        assert made[-1].num_refreshes == 1
        assert made[-1].num_approximate == after - 1


@pytest.mark.parametrize(
    ("changes", "options", "problem"),
    [
        ({"attention": "block"}, {}, "attention is block: its cache is exact"),
        ({"attention": "causal_context"}, {}, "causal_context: its cache is exact"),
        ({}, {"guidance": 1.0}, "guidance is given"),
    ],
)
def test_refused_where_it_makes_no_sense(
    tmp_path: Path,
    changes: dict[str, Any],
    options: dict[str, Any],
    problem: str,
) -> None:
    out = tmp_path / "model.gguf"
    gguf_of_checkpoint.write_gguf(GOLDEN / "sdar", out, "edge-qwen3", "f32", MASK, **changes)
    with edge.load(out) as model, pytest.raises(RequestError, match=problem):
        model.generate_ids([1], max_tokens=4, cache="dual", **options)


def test_refused_on_a_canvas_refined_in_place() -> None:
    with edge.load("sudoku") as model, pytest.raises(RequestError, match="whole canvas at once"):
        model.generate("." * 81, cache="dual")

"""Budgets on the real engine, every model class; what is asserted does not depend on speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edge
from convert import convert
from edge import plan, profile

Golden = Callable[[str], Path]
FAMILIES: dict[str, dict[str, Any]] = {
    "llada": {},
    "dream": {},
    "a2d_qwen3_bd3lm": {"mask_token_id": 245, "overrides": {"diffusion.attention": "block"}},
    "sdar": {},
    "fast_dllm_v2": {"mask_token_id": 245},
}
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
BUDGETS_MS = (0.01, 1.0, 2.0, 4.0, 8.0, 16.0, 1e5)


@pytest.fixture(autouse=True)
def _no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "folder", lambda: tmp_path / "profiles")


@pytest.fixture(scope="module")
def model_file(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``model_file("sdar")``: that golden checkpoint, converted once."""
    folder = tmp_path_factory.mktemp("families")

    def make(family: str) -> Path:
        path = folder / f"{family}.gguf"
        if not path.exists():
            convert(golden(family), path, "f32", **FAMILIES[family])
        return path

    return make


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("on_tight", ["shorten", "coarse"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_at_every_budget(
    model_file: Callable[[str], Path], family: str, on_tight: str, calibrated: bool
) -> None:
    with edge.load(model_file(family), threads=2) as model:
        if calibrated:
            model.calibrate(seconds=0.1)
        free = model.generate_ids(PROMPT, max_tokens=24)
        for budget_ms in BUDGETS_MS:
            result = model.generate_ids(
                PROMPT, max_tokens=24, budget_ms=budget_ms, on_tight=on_tight
            )
            assert model.config.diffusion.mask_token_id not in result.ids
            assert len(result.ids) <= 24
            assert result.complete <= (result.status != "shortened")
            if budget_ms == BUDGETS_MS[0]:
                assert result.status == "deadline_infeasible"
        # Whatever was stopped before, nothing of it is left in the model.
        assert result.ids == free.ids
        assert result.status == free.status
        again = model.generate_ids(PROMPT, max_tokens=24)
        assert (again.ids, again.stats.nfe) == (free.ids, free.stats.nfe)


@pytest.mark.parametrize("family", ["llada", "sdar"])
def test_guidance_and_drawn_tokens_have_a_budget_too(
    model_file: Callable[[str], Path], family: str
) -> None:
    options: dict[str, Any] = (
        {"guidance": 1.0} if family == "llada" else {"temperature": 0.8, "seed": 3}
    )
    with edge.load(model_file(family), threads=1) as model:
        free = model.generate_ids(PROMPT, max_tokens=16, **options)
        hurried = model.generate_ids(PROMPT, max_tokens=16, budget_ms=1e5, **options)
    assert hurried.ids == free.ids


@pytest.mark.parametrize("options", [{"cache": "dual"}, {"credit": True, "early_stop": "stable"}])
def test_reuse_credit_and_early_stops_have_a_budget_too(
    model_file: Callable[[str], Path], options: dict[str, Any]
) -> None:
    with edge.load(model_file("llada"), threads=1) as model:
        for budget_ms in BUDGETS_MS:
            result = model.generate_ids(PROMPT, max_tokens=64, budget_ms=budget_ms, **options)
            assert model.config.diffusion.mask_token_id not in result.ids
        assert result.status in ("complete", "eos")


def test_a_deadline_is_an_instant_of_the_monotonic_clock() -> None:
    puzzle = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
    with edge.load(threads=1) as model:
        result = model.generate(puzzle, deadline=time.monotonic() + 100)
        assert result.status == "complete"
        assert result.stats.budget_ms == pytest.approx(100_000, rel=0.1)
        late = model.generate(puzzle, deadline=time.monotonic() - 1)
        assert late.status == "deadline_infeasible"
        assert late.complete
        with pytest.raises(edge.BudgetError):
            model.generate(puzzle, deadline=time.monotonic() - 1, on_infeasible="error")
        events = list(model.stream(puzzle, budget_ms=100_000))
    assert isinstance(events[-1], edge.Done)


@pytest.mark.parametrize("budget_ms", [None, 1e5])
@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("family", ["a2d_qwen3_bd3lm", "sdar", "fast_dllm_v2"])
def test_a_prompt_in_chunks_gives_the_same_bits(
    model_file: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    fused: bool | None,
    budget_ms: float | None,
) -> None:
    prompt = [(7 * i) % 90 + 1 for i in range(41)]
    options: dict[str, Any] = {"max_tokens": 24, "budget_ms": budget_ms, "fused": fused}
    with edge.load(model_file(family), threads=2) as model:
        whole = model.generate_ids(prompt, **options)
        monkeypatch.setattr(plan, "CHUNK", 8)
        chunks = model.generate_ids(prompt, **options)
    assert chunks.stats.nfe > whole.stats.nfe
    assert chunks.ids == whole.ids
    assert chunks.stats.mean_confidence == whole.stats.mean_confidence
    assert chunks.stats.min_confidence == whole.stats.min_confidence

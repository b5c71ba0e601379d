"""Decoding in order under a latency budget, on a clock that only moves when somebody works."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from simulated import EOS, MASK, MS, Timed, jitter, often

from edge.costs import StepCosts
from edge.errors import BudgetError
from edge.generator import Generation

CONFIG = {
    "attention": "causal_context",
    "shift_logits": True,
    "block_length": 8,
    "sampler": "speculative",
    "eos_ids": (),
}
# Eight rows take half as long again as one.
COSTS = StepCosts(
    body=((1, 40 * MS), (8, 60 * MS), (256, 400 * MS)),
    head=((1, 2 * MS), (64, 30 * MS)),
    attention_ns=300.0,
    source="calibration",
)
PREFILL_MS = 80


class Text:
    """A denoiser whose next tokens are fixed and whose drafts agree so often."""

    def __init__(self, agreement: float, end: int = -1) -> None:
        random = np.random.default_rng(0)
        self.tokens = random.integers(1, 200, 5000).astype(np.int32)
        if end >= 0:
            self.tokens[end] = EOS
        self._wrong = random.random(5000) >= agreement

    def __call__(self, ids: Any, positions: Any) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        next_ids = self.tokens[positions + 1].copy()
        wrong = (ids == MASK) & self._wrong[positions + 1]
        next_ids[wrong] = 255
        return next_ids, np.full(len(ids), 0.5, np.float32)


def ask(timed: Timed, text: Text, **options: Any) -> Any:
    options = {"config": CONFIG, "costs": COSTS, "max_tokens": 100, "denoise": text, **options}
    return timed(prompt=[7] * 20, **options)


@pytest.mark.parametrize("agreement", [0.0, 0.6, 0.95])
def test_without_a_budget_the_text_is_the_models_own(timed: Timed, agreement: float) -> None:
    text = Text(agreement)
    run, plain = ask(timed, text), ask(timed, text, sampler="autoregressive")
    assert run.result.ids == plain.result.ids == text.tokens[20:120].tolist()
    share = run.result.stats.elapsed_ms / plain.result.stats.elapsed_ms
    assert share < {0.0: 1.05, 0.6: 0.75, 0.95: 0.45}[agreement]


def test_a_budget_that_verified_text_meets(timed: Timed) -> None:
    text = Text(0.9)
    free = ask(timed, text).result.stats.elapsed_ms
    run = ask(timed, text, budget_ms=1.5 * free)
    assert run.result.ids == text.tokens[20:120].tolist()
    assert run.result.status == "complete"
    assert run.result.stats.unverified_tokens == 0
    assert not run.missed


@pytest.mark.parametrize("agreement", [0.1, 0.6, 0.9])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_what_time_does_not_verify_is_taken_on_trust(
    timed: Timed, agreement: float, share: float
) -> None:
    text = Text(agreement)
    free = ask(timed, text).result.stats.elapsed_ms
    run = ask(timed, text, budget_ms=share * free)
    stats = run.result.stats
    assert not run.missed
    assert run.result.status in ("complete", "filled", "shortened")
    if run.result.status != "shortened":
        assert len(run.result.ids) == 100
        assert 0 < stats.unverified_tokens < 100
    assert stats.forced_tokens == stats.unverified_tokens
    wrong = np.count_nonzero(np.array(run.result.ids) != text.tokens[20 : 20 + len(run.result.ids)])
    assert wrong <= stats.unverified_tokens


def test_more_time_verifies_more(timed: Timed) -> None:
    text = Text(0.3)
    budgets = (1000, 1500, 2500, 3500)
    trusted = [ask(timed, text, budget_ms=ms).result.stats.unverified_tokens for ms in budgets]
    assert trusted == sorted(trusted, reverse=True)
    assert trusted[0] > trusted[-1]


@often
@given(
    budget_ms=st.floats(1, 8000),
    agreement=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    sigma=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 999),
    sampler=st.sampled_from(["speculative", "autoregressive"]),
    end=st.sampled_from([-1, 20, 60]),
)
def test_what_is_promised_is_kept(
    timed: Timed,
    budget_ms: float,
    agreement: float,
    sigma: float,
    seed: int,
    sampler: str,
    end: int,
) -> None:
    text = Text(agreement, end)
    run = ask(
        timed,
        text,
        budget_ms=budget_ms,
        sampler=sampler,
        noise=jitter(seed, sigma),
        config={**CONFIG, "eos_ids": (EOS,)},
    )
    result, stats = run.result, run.result.stats
    assert stats.tokens == len(result.ids)
    assert stats.unverified_tokens == 0 or sampler == "speculative"
    assert EOS not in result.ids
    if result.status == "complete":
        assert len(result.ids) == 100
    if not stats.unverified_tokens:
        assert result.ids == text.tokens[20 : 20 + len(result.ids)].tolist()
    if sigma == 0 and budget_ms > 2 * PREFILL_MS:  # nothing is begun that has no time
        assert not any(run.backend.stopped)
    if run.missed and budget_ms > 3 * PREFILL_MS and sigma < 0.2:
        late = stats.overshoot_ms
        assert late < 10, (budget_ms, late)
    if result.status == "deadline_infeasible":
        assert run.missed
    else:
        assert result.complete == (result.status not in ("shortened",))


def test_the_least_answer_is_given_late_or_refused(timed: Timed) -> None:
    run = ask(timed, Text(0.5), budget_ms=10)
    assert run.result.status == "deadline_infeasible"
    assert len(run.result.ids) >= 1
    assert run.result.stats.min_budget_ms > 60
    with pytest.raises(BudgetError, match="at least"):
        ask(timed, Text(0.5), budget_ms=10, on_infeasible="error")
    least = run.result.stats.min_budget_ms
    again = {"timing": run.timing, "on_infeasible": "error"}
    assert not ask(timed, Text(0.5), budget_ms=least + 1, **again).missed


def test_other_samplers_keep_their_loop(timed: Timed) -> None:
    run = ask(timed, Text(1.0), sampler="low_confidence_static", budget_ms=3000)
    assert run.result.stats.drafts == 0
    assert Generation.__name__ == "Generation"

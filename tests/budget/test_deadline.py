"""The loop under a latency budget, on a clock that only moves when somebody works."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from simulated import EOS, KINDS, MASK, MS, Timed, ask, jitter, often

from edge.costs import StepCosts, guess
from edge.errors import BudgetError, RequestError
from edge.pacing import Pacer

Ints = NDArray[np.int32]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(holes, steps they are planned for) of each step."""
    plans: list[tuple[int, int]] = []
    original = Pacer.planned_steps

    def spy(self: Pacer, index: int, part: int, used: int, holes: int) -> int:
        steps = original(self, index, part, used, holes)
        plans.append((holes, steps))
        return steps

    monkeypatch.setattr(Pacer, "planned_steps", spy)
    return plans


@often
@given(
    kind=st.sampled_from(sorted(KINDS)),
    budget_ms=st.floats(1, 20_000),
    sigma=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 999),
    on_tight=st.sampled_from(["shorten", "coarse"]),
    sampler=st.sampled_from(["low_confidence_static", "low_confidence_dynamic", "factor"]),
    more=st.sampled_from([{}, {"early_stop": "stable"}, {"fused": False}, {"cache": "dual"}]),
)
def test_what_is_promised_is_kept(
    timed: Timed,
    planned: list[tuple[int, int]],
    kind: str,
    budget_ms: float,
    sigma: float,
    seed: int,
    on_tight: str,
    sampler: str,
    more: dict[str, Any],
) -> None:
    planned.clear()
    if ("cache" in more) != (kind == "full"):
        more = {}
    run = ask(
        timed,
        kind,
        budget_ms=budget_ms,
        noise=jitter(seed, sigma),
        on_tight=on_tight,
        sampler=sampler,
        **more,
    )
    result, stats = run.result, run.result.stats
    wanted = 40 if kind == "in_place" else 100
    # Status and facts.
    assert result.complete == (len(result.ids) == wanted and MASK not in result.ids)
    assert MASK not in result.ids
    assert result.status in ("complete", "filled", "shortened", "deadline_infeasible")
    assert (result.status in ("complete", "filled")) <= result.complete
    assert (result.status == "shortened") <= (not result.complete)
    assert len(result.ids) > 0
    # The clock: all times are accounted for, a miss is at most a layer late or the least answer.
    parts = stats.prefill_ms + stats.denoise_ms + stats.store_ms
    assert stats.elapsed_ms == pytest.approx(parts)
    assert stats.overshoot_ms == pytest.approx(stats.elapsed_ms - budget_ms)
    least = 2 if kind != "full" and kind != "in_place" else 1
    if run.missed and result.status != "deadline_infeasible":
        assert sigma > 0
        layer_ms = max(run.backend.times_ns) / MS / 10
        assert stats.overshoot_ms <= layer_ms or stats.nfe <= least
    if result.status == "deadline_infeasible":
        assert run.missed
        assert stats.nfe <= least
        assert stats.min_budget_ms > budget_ms
    # The floor: after each step at least its share of the holes is committed.
    for (holes, steps), before, after in zip(
        planned, [None, *run.drafts], run.drafts, strict=False
    ):
        assert 1 <= steps <= holes
        if before is not None:
            assert int((after.committed & ~before.committed).sum()) >= -(-holes // steps)
    # A forward is only begun before the deadline, a stopped one has no successor.
    begun = zip(run.backend.starts_ns, run.backend.stopped, strict=True)
    for number, (start, stopped) in enumerate(begun):
        assert start - run.backend.starts_ns[0] < budget_ms * MS or number < least
        assert not stopped or number == len(run.backend.starts_ns) - 1


@often
@given(kind=st.sampled_from(sorted(KINDS)), budget_ms=st.floats(300, 8_000))
def test_on_a_calm_device_nothing_is_late_or_stopped(
    timed: Timed, kind: str, budget_ms: float
) -> None:
    run = ask(timed, kind, budget_ms=budget_ms)
    assert not run.missed
    assert not any(run.backend.stopped)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_all_the_time_there_is_gives_the_unhurried_answer(timed: Timed, kind: str) -> None:
    hurried, free = ask(timed, kind, budget_ms=1e6), ask(timed, kind)
    assert hurried.result.status == "complete"
    assert hurried.result.ids == free.result.ids
    assert hurried.result.stats.nfe == free.result.stats.nfe
    assert hurried.result.stats.forced_tokens == 0
    assert free.result.stats.budget_ms is None


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_smallest_feasible_budget_is_feasible(timed: Timed, kind: str) -> None:
    least = ask(timed, kind, budget_ms=1).result.stats.min_budget_ms
    assert ask(timed, kind, budget_ms=least * 1.001).result.status != "deadline_infeasible"
    assert ask(timed, kind, budget_ms=least * 0.7).result.stats.min_budget_ms == pytest.approx(
        least
    )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_impossible_budget_is_an_error_on_request(timed: Timed, kind: str) -> None:
    with pytest.raises(BudgetError, match=r"1 ms is too short.*at least") as caught:
        ask(timed, kind, budget_ms=1, on_infeasible="error")
    error = caught.value
    assert error.budget_ms == 1
    again = ask(timed, kind, budget_ms=error.min_budget_ms, on_infeasible="error")
    assert again.result.status != "deadline_infeasible"


@often
@given(
    kind=st.sampled_from(sorted(KINDS)),
    share=st.floats(1.0, 1.2),
    slower=st.floats(0.9, 1.4),
    remask=st.sampled_from(["none", "conf"]),
)
def test_a_budget_just_above_the_mandatory_work_is_classified_by_what_happened(
    timed: Timed, kind: str, share: float, slower: float, remask: str
) -> None:
    """The margin makes some of them infeasible by prediction; only a late one is called so."""
    assume(abs(slower / share - 1) > 1e-3)  # not by less than the clock's tick
    first_block = 32 if kind not in ("in_place", "absolute") else None
    prompt_and_step_ms = ask(timed, kind, budget_ms=1).result.stats.elapsed_ms
    budget_ms = share * prompt_and_step_ms
    run = ask(timed, kind, budget_ms=budget_ms, noise=repeat(slower), remask=remask)
    result, stats = run.result, run.result.stats
    assert run.missed == (stats.elapsed_ms > budget_ms + 1e-6)
    assert run.missed == (result.status == "deadline_infeasible")
    assert run.missed <= (slower * prompt_and_step_ms > budget_ms)
    assert result.complete or first_block is None or len(result.ids) >= first_block
    if run.missed:
        assert stats.min_budget_ms > budget_ms


@pytest.mark.parametrize("kind", ["block", "full", "in_place"])
def test_a_device_slower_than_its_profile_is_an_error_on_request(timed: Timed, kind: str) -> None:
    least = ask(timed, kind, budget_ms=1).result.stats.min_budget_ms
    with pytest.raises(BudgetError):
        ask(timed, kind, budget_ms=least * 1.1, on_infeasible="error", noise=repeat(4.0))


class TestWithoutAProfile:
    def guessed(self, timed_config: Callable[..., Any]) -> StepCosts:
        return guess(timed_config().denoiser, 2)

    @pytest.mark.parametrize("kind", sorted(KINDS))
    def test_the_first_forward_puts_the_guess_right(
        self, timed: Timed, timed_config: Callable[..., Any], kind: str
    ) -> None:
        run = ask(timed, kind, budget_ms=2500, known=self.guessed(timed_config))
        assert run.result.status in ("complete", "filled")
        assert not run.missed
        assert run.result.stats.cost_source == "guess"
        assert run.result.stats.predicted_ms is None

    def test_what_was_learned_serves_the_next_request(
        self, timed: Timed, timed_config: Callable[..., Any]
    ) -> None:
        first = ask(timed, "block", budget_ms=2500, known=self.guessed(timed_config))
        second = ask(timed, "block", budget_ms=2500, timing=first.timing)
        assert second.result.stats.cost_source == "steps"
        assert 0.7 < second.result.stats.cost_u < 1.4
        assert second.result.stats.predicted_ms == pytest.approx(
            second.result.stats.elapsed_ms, rel=0.25
        )

    def test_nothing_is_refused_before_it_was_measured(
        self, timed: Timed, timed_config: Callable[..., Any]
    ) -> None:
        known = self.guessed(timed_config)
        run = ask(timed, "block", budget_ms=1, known=known)
        assert run.result.status == "deadline_infeasible"
        assert len(run.result.ids) == 32
        with pytest.raises(BudgetError):
            ask(timed, "block", budget_ms=1, known=known, on_infeasible="error")


def ends_after(count: int) -> Any:
    def denoise(ids: Ints, positions: Ints) -> tuple[Ints, NDArray[np.float32]]:
        tokens = np.where(positions < 20 + count, 1, EOS)
        return tokens.astype(np.int32), np.full(len(ids), 0.95, np.float32)

    return denoise


def test_an_end_token_returns_the_time_that_is_left(timed: Timed) -> None:
    config = {"eos_ids": (EOS,)}
    run = ask(timed, "block", config=config, budget_ms=5000, denoise=ends_after(40))
    assert (run.result.status, len(run.result.ids)) == ("eos", 40)
    assert run.result.complete
    assert run.result.stats.overshoot_ms < -1000


def test_a_sure_denoiser_forces_nothing(timed: Timed) -> None:
    options: dict[str, Any] = {"budget_ms": 800, "sampler": "low_confidence_dynamic"}
    sure = ask(timed, "block", denoise=ends_after(1000), **options)
    unsure = ask(timed, "block", **options)
    assert sure.result.stats.forced_tokens == 0
    assert unsure.result.stats.forced_tokens > 50
    assert sure.result.stats.min_confidence == pytest.approx(0.95)


def test_a_slow_reader_is_part_of_the_pace(timed: Timed) -> None:
    run = ask(timed, "block", budget_ms=4000, consumer_ns=lambda: 40 * MS)
    stats = run.result.stats
    assert not run.missed
    assert stats.elapsed_ms > stats.prefill_ms + stats.denoise_ms + stats.store_ms + 400


def test_every_figure_of_the_budget_is_there(timed: Timed) -> None:
    stats = ask(timed, "block", budget_ms=3000).result.stats
    assert stats.budget_ms == 3000
    assert 0 < stats.ttfd_ms <= stats.ttft_ms <= stats.t_first_block_ms <= stats.elapsed_ms
    assert stats.step_ms_p50 <= stats.step_ms_p99
    assert sum(stats.steps_per_block) == stats.steps
    assert stats.tokens_per_step == 100 / stats.steps
    assert (stats.cost_u, stats.cost_source) == (pytest.approx(1), "calibration")
    assert 0 < stats.cost_v < 0.2
    assert stats.predicted_ms == pytest.approx(stats.elapsed_ms, rel=0.2)
    assert stats.min_confidence <= stats.mean_confidence
    assert stats.sampler_parameters == {"rank": "confidence"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget_ms": 5, "deadline": 5.0}, "budget_ms and deadline"),
        ({"budget_ms": 5, "reference": True}, "reference"),
        ({"budget_ms": 0}, "budget_ms is 0"),
        ({"budget_ms": float("nan")}, "budget_ms is nan"),
        ({"budget_ms": "5"}, "budget_ms is '5'"),
        ({"on_tight": "stretch"}, "on_tight is 'stretch'"),
        ({"on_infeasible": "panic"}, "on_infeasible is 'panic'"),
    ],
)
def test_wrong_options_are_named(timed: Timed, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        ask(timed, "block", **options)


def test_a_deadline_is_a_budget(timed: Timed) -> None:
    run = ask(timed, "block", deadline=10**6 + 2.5)  # the clock begins at 10**15 ns
    assert run.result.stats.budget_ms == pytest.approx(2500)
    past = ask(timed, "block", deadline=10**6 - 1.0)
    assert past.result.status == "deadline_infeasible"

"""Time of a budget that nothing else needs goes to the least sure tokens, where that is wanted."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest
import simulated
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from simulated import KINDS, MASK, MS, Timed, jitter, often

from edge.budget import Controller, Pace, Stretch, Work

Ints = NDArray[np.int32]
RANK = {"complete": 0, "filled": 1, "shortened": 2, "deadline_infeasible": 3}
DYNAMIC = {"sampler": "low_confidence_dynamic", "remask": "conf"}


def fickle(confidence: float) -> Any:
    """Another token everywhere at every forward, so that rounds never end by themselves."""
    calls = count(1)

    def denoise(ids: Ints, _: Ints) -> tuple[Ints, NDArray[np.float32]]:
        token = np.full(len(ids), next(calls) % 200, np.int32)
        return token, np.linspace(confidence, confidence + 0.04, len(ids), dtype=np.float32)

    return denoise


def ask(timed: Timed, kind: str, **options: Any) -> Any:
    return simulated.ask(timed, kind, **{"denoise": fickle(0.95), **options})


@often
@given(
    kind=st.sampled_from(sorted(KINDS)),
    budget_ms=st.floats(1, 20_000),
    sigma=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 999),
    confidence=st.sampled_from([0.3, 0.95]),
    more=st.sampled_from([{}, {"on_tight": "coarse"}, {"steps": 12}, {"cache": "dual"}]),
)
def test_the_deadline_and_the_status_are_kept(
    timed: Timed,
    kind: str,
    budget_ms: float,
    sigma: float,
    seed: int,
    confidence: float,
    more: dict[str, Any],
) -> None:
    if "cache" in more and kind != "full":
        more = {}
    options = {"budget_ms": budget_ms, **DYNAMIC, **more}
    run, plain = (
        ask(
            timed,
            kind,
            denoise=fickle(confidence),
            noise=jitter(seed, sigma),
            **{**options, "remask": remask},
        )
        for remask in ("conf", "none")
    )
    result, stats = run.result, run.result.stats
    assert MASK not in result.ids
    if sigma == 0:
        assert RANK[result.status] <= RANK[plain.result.status]
        assert len(result.ids) >= len(plain.result.ids)
        assert run.missed == plain.missed
    if run.missed and result.status != "deadline_infeasible":
        least = 2 if kind != "full" and kind != "in_place" else 1
        assert stats.overshoot_ms <= max(run.backend.times_ns) / MS / 10 or stats.nfe <= least
    assert stats.steps <= more.get("steps", np.inf) or kind == "sub_blocks"  # one each at least
    given_at = range(0, 40, 4) if kind == "in_place" else range(20)
    for draft in run.drafts:
        assert (draft.ids[list(given_at)] == 7).all()
    assert stats.forced_tokens <= stats.tokens


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_spare_time_is_used_and_only_if_wanted(timed: Timed, kind: str) -> None:
    spent, plain = (
        ask(timed, kind, budget_ms=8000, **{**DYNAMIC, "remask": remask})
        for remask in ("conf", "none")
    )
    assert plain.result.status == spent.result.status == "complete"
    assert plain.result.stats.overshoot_ms < -5000
    assert -1500 < spent.result.stats.overshoot_ms <= 0
    assert spent.result.stats.remasked_tokens > 0
    assert not any(spent.backend.stopped)


@pytest.mark.parametrize("kind", ["block", "full"])
def test_a_text_that_does_not_change_returns_the_time(timed: Timed, kind: str) -> None:
    def sure(ids: Ints, _: Ints) -> tuple[Ints, NDArray[np.float32]]:
        return np.ones(len(ids), np.int32), np.full(len(ids), 0.95, np.float32)

    stats = ask(timed, kind, budget_ms=8000, denoise=sure, **DYNAMIC).result.stats
    assert 0 < stats.remasked_tokens <= 52
    assert stats.overshoot_ms < -4000


@pytest.mark.parametrize("kind", ["full", "in_place"])
def test_a_round_that_the_deadline_stops_is_undone(timed: Timed, kind: str) -> None:
    plain = ask(timed, kind, budget_ms=3000, **{**DYNAMIC, "remask": "none"})
    steps, budget_ms = plain.result.stats.nfe, plain.result.stats.elapsed_ms + 500
    noise = iter([1.0] * steps + [8.0] * 9)
    run = ask(timed, kind, budget_ms=budget_ms, noise=noise, **DYNAMIC)
    assert run.backend.stopped == [False] * steps + [True]
    assert run.result.ids == plain.result.ids
    assert run.result.status == plain.result.status == "complete"
    assert run.result.stats.remasked_tokens == 0
    assert run.result.stats.mean_confidence == plain.result.stats.mean_confidence
    assert run.result.stats.overshoot_ms <= run.backend.times_ns[-1] / MS / 10  # a slow layer


def test_a_round_short_of_time_is_finished_in_fewer_steps(timed: Timed) -> None:
    noise = iter([1.0] + [1.6] * 99)
    run = ask(timed, "full", budget_ms=4000, noise=noise, sampler="factor", remask="conf")
    assert run.result.complete
    assert not run.missed


class TestSpareSteps:
    def at(self, budget_ns: float) -> Controller:
        return Controller(lambda: 0, 0, budget_ns, Pace())

    def test_of_the_last_block_are_all_that_fit(self) -> None:
        controller = self.at(2e9)
        spare = controller.spare_steps([Stretch(1e8, 0.0, [32])])
        assert spare == controller.pace.affordable(1e8, controller.left_ns)
        assert 10 < spare < 20

    @given(budget_ns=st.floats(1e8, 2e10), need=st.integers(1, 40))
    def test_of_an_earlier_one_leave_all_that_the_rest_can_use(
        self, budget_ns: float, need: int
    ) -> None:
        controller = self.at(budget_ns)
        spare = controller.spare_steps([Stretch(1e8, 5e7, [9]), Stretch(1e8, 0.0, [need])])
        everything = Work.of([5e7] + [1e8] * (need + spare))
        assert spare == 0 or controller.fits(everything)

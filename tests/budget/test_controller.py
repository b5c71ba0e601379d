"""The controller's arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.budget import (
    HALF_LIFE_NS,
    MOST_RESERVE,
    Controller,
    Pace,
    Smoothed,
    Stretch,
    Work,
    water_level,
)

times = st.floats(1e3, 1e9)
needs = st.lists(st.integers(1, 64), min_size=1, max_size=8)


def at(now_ns: int, budget_ns: float, pace: Pace | None = None) -> Controller:
    return Controller(lambda: now_ns, 0, budget_ns, pace or Pace())


class TestSmoothed:
    def test_follows_as_tcp_does(self) -> None:
        value = Smoothed(1.0, 0.2)
        value.add(1.4)
        assert value.mean == pytest.approx(1.1)
        assert value.deviation == pytest.approx(0.2 + (0.3 - 0.2) / 4)

    def test_one_spike_widens_but_does_not_move(self) -> None:
        value = Smoothed(1.0, 0.2)
        value.add(50.0)
        assert value.mean == 1.0
        assert value.deviation == pytest.approx(0.2 + (2.0 - 0.2) / 4)

    def test_a_second_spike_is_the_new_pace(self) -> None:
        value = Smoothed(1.0, 0.2)
        value.add(8.0)
        value.add(8.0)
        assert value.mean == pytest.approx(1 + 7 / 4)


class TestPace:
    def test_the_first_measurement_replaces_a_guess(self) -> None:
        pace = Pace(guessed=True)
        assert not pace.trusted
        pace.observe(7e8, 1e6)
        assert pace.u == 700
        assert pace.trusted

    def test_a_profile_is_corrected_within_bounds(self) -> None:
        pace = Pace()
        for _ in range(60):
            pace.observe(9e6, 1e6)
        assert pace.u == 5.0

    def test_forgets_while_the_device_rests(self) -> None:
        pace = Pace(rate=Smoothed(2.0, 0.1))
        pace.rest_until(0)
        pace.rest_until(int(HALF_LIFE_NS))
        assert pace.u == pytest.approx(1.5)

    @given(step=times, time=st.floats(0, 1e11), u=st.floats(0.3, 5), v=st.floats(0, 2))
    def test_affordable_is_the_most_that_the_bound_allows(
        self, step: float, time: float, u: float, v: float
    ) -> None:
        pace = Pace(rate=Smoothed(u, v))
        count = pace.affordable(step, time)

        def bound(steps: int) -> float:
            return pace.bound(Work(steps, steps * step, steps * step * step))

        # Deviations of steps and of what is between them are added, not squared: rather too few.
        assert bound(count) <= time * (1 + 1e-9)
        spread = 2 * ((v * step) ** 2 + pace.between_ns.deviation**2) ** 0.5 * (count + 1) ** 0.5
        assert bound(count + 1) + spread > time


@given(total=st.integers(0, 500), needs=needs)
def test_the_water_level_uses_all_it_can(total: int, needs: list[int]) -> None:
    level = water_level(total, needs)
    assert sum(min(level, need) for need in needs) <= total
    higher = sum(min(level + 1, need) for need in needs)
    assert higher > total or level >= max(needs)


class TestReserve:
    @given(budget=times)
    def test_doubt_takes_at_most_a_share_of_the_budget(self, budget: float) -> None:
        controller = at(0, budget, Pace(tail_ns=Smoothed(0, 1e12)))
        assert controller.deadline_ns - controller.limit_ns == pytest.approx(MOST_RESERVE * budget)

    @given(budget=times)
    def test_what_the_end_takes_for_certain_counts_in_full(self, budget: float) -> None:
        controller = at(0, budget, Pace(tail_ns=Smoothed(4e5, 0)))
        assert controller.limit_ns == pytest.approx(budget - 4e5)

    def test_is_what_was_measured(self) -> None:
        pace = Pace(tail_ns=Smoothed(1e6, 0), grain_ns=1e5)
        pace.was_late(4e6)
        assert pace.reserve_ns(1e9) == 1e6 + 4e6 + 2 * 2e6
        assert at(0, 1e9, pace).limit_ns == 1e9 - 9e6

    def test_expects_the_worst_layer_before_anything_was_late(self) -> None:
        pace = Pace(tail_ns=Smoothed(0, 0), grain_ns=1e6)
        assert pace.reserve_ns(1e9) == 5e6

    @given(needed=st.floats(1e5, 1e10), tail=st.floats(0, 1e7), doubt=st.floats(0, 1e9))
    def test_the_least_budget_leaves_what_is_needed(
        self, needed: float, tail: float, doubt: float
    ) -> None:
        pace = Pace(tail_ns=Smoothed(tail, doubt))
        least = pace.least_budget(needed)
        assert at(0, least, pace).left_ns == pytest.approx(needed, abs=1)
        assert at(0, 0.99 * least, pace).left_ns < needed


def blocks(count: int, need: int = 32) -> list[Stretch]:
    return [Stretch(1e8, 8.4e7 * (i + 1 < count), [need]) for i in range(count)]


class TestShares:
    @given(budget=st.floats(1e8, 2e10), count=st.integers(1, 8))
    def test_what_is_kept_fits(self, budget: float, count: int) -> None:
        controller, row = at(0, budget), blocks(count)
        kept = controller.kept(row, begun=False)
        work = Work.of([1e8] * (kept + 1) + [8.4e7] * kept)
        assert kept == 0 or controller.fits(work)
        more = Work.of([1e8] * (kept + 2) + [8.4e7] * (kept + 1))
        assert kept == count - 1 or not controller.fits(more)

    @given(budget=st.floats(1e9, 2e10), count=st.integers(1, 6), used=st.integers(0, 9))
    def test_more_time_is_never_fewer_steps(self, budget: float, count: int, used: int) -> None:
        row = blocks(count)
        few = at(0, budget).steps_left(row, used, 32)
        many = at(0, budget * 1.5).steps_left(row, used, 32)
        full_length = at(0, budget).kept(row, begun=True) == count - 1
        assert many >= few or not full_length

    def test_the_present_block_does_not_starve_the_last(self) -> None:
        """Each block takes what it is told, on a clock that runs as predicted."""
        now, taken = 0.0, []
        pace = Pace(rate=Smoothed(1, 0), between_ns=Smoothed(0, 0))
        for block in range(4):
            row, used = blocks(4)[block:], 0
            while used == 0 or at(int(now), 5e9, pace).steps_left(row, used, 32 - used):
                now, used = now + 1e8, used + 1
            now += row[0].store_ns
            taken.append(used)
        assert max(taken) - min(taken) <= 1
        assert sum(taken) * 1e8 + 3 * 8.4e7 > 4.7e9

    def test_time_that_a_block_does_not_use_flows_on(self) -> None:
        unhurried = at(0, 3e9).steps_left(blocks(3), 1, 31)
        assert at(0, 3e9).steps_left(blocks(2), 1, 31) > unhurried
        ragged = [blocks(3)[0], Stretch(1e8, 8.4e7, [1]), blocks(3)[2]]
        assert at(0, 3e9).steps_left(ragged, 1, 31) > unhurried

    def test_optional_steps_come_after_mandatory_work(self) -> None:
        for budget in (4.4e8, 6e8, 8e8):
            may = at(0, budget).may_step(blocks(2))
            assert may == at(0, budget).fits(Work.of([1e8, 8.4e7, 1e8])) or budget < 2.5e8

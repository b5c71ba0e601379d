"""When the rest of a block is filled at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import early_stop
from edge.canvas import RowLogits, RowStats
from edge.early_stop import MARGIN_AT_END, MARGIN_AT_START, STABLE_STEPS, Schedule, Stable
from edge.samplers.base import BlockProgress

NOW = BlockProgress(0, 9, 9, 0)


def rows(tokens: list[int], confidence: float = 0.95, start: int = 0) -> RowStats:
    sure = np.full(len(tokens), confidence, np.float32)
    positions = np.arange(start, start + len(tokens), dtype=np.int32)
    return RowStats(positions, np.array(tokens, np.int32), sure, sure, sure)


def with_margins(margins: list[float], start: int = 0) -> RowStats:
    plain = rows([0] * len(margins), start=start)
    top1, zero = np.array(margins, np.float32), np.zeros(len(margins), np.float32)
    logits = RowLogits(plain.tokens, top1, zero, zero, plain.tokens, top1, zero)
    return RowStats(plain.positions, plain.tokens, zero, zero, zero, logits)


class TestStable:
    def test_waits_for_some_steps_without_a_change(self) -> None:
        rule = Stable()
        seen = [rule.is_due(rows([1, 2, 3]), NOW) for _ in range(STABLE_STEPS + 2)]
        assert seen == [False] * STABLE_STEPS + [True, True]

    def test_a_change_starts_the_count_again(self) -> None:
        rule = Stable()
        for _ in range(STABLE_STEPS):
            rule.is_due(rows([1, 2, 3]), NOW)
        seen = [rule.is_due(rows([1, 9, 3]), NOW) for _ in range(STABLE_STEPS + 1)]
        assert seen == [False] * STABLE_STEPS + [True]

    def test_committed_positions_are_no_change(self) -> None:
        rule = Stable()
        for length in range(STABLE_STEPS, 0, -1):
            assert not rule.is_due(rows([1] * length), NOW)
        assert rule.is_due(rows([1]), NOW)

    def test_unsure_candidates_never_stop(self) -> None:
        rule = Stable()
        assert not any(rule.is_due(rows([1, 2], 0.6), NOW) for _ in range(9))


class TestSchedule:
    @given(done=st.integers(0, 8), margin=st.floats(0, 12, width=32))
    def test_the_threshold_falls_with_the_progress(self, done: int, margin: float) -> None:
        progress = BlockProgress(done, 9, 9, done)
        wanted = MARGIN_AT_START + (MARGIN_AT_END - MARGIN_AT_START) * done / 9
        assert Schedule().is_due(with_margins([margin] * 3), progress) == (margin >= wanted)

    def test_committed_positions_count_with_their_last_margin(self) -> None:
        rule = Schedule()
        assert not rule.is_due(with_margins([12.0, 6.0, 0.0]), NOW)  # 6 on average
        assert rule.is_due(with_margins([8.0, 2.6], start=1), NOW)  # (12 + 8 + 2.6) / 3
        assert not Schedule().is_due(with_margins([8.0, 2.6], start=1), NOW)

    def test_probabilities_say_it_where_there_are_no_logits(self) -> None:
        sure = np.array([0.9], np.float32)
        plain = RowStats(*np.zeros((2, 1), np.int32), sure, np.array([0.8], np.float32), sure)
        assert early_stop.logit_margin(plain)[0] == pytest.approx(np.log(9), rel=1e-5)

    def test_a_row_of_one_choice_does_not_outweigh_all_others(self) -> None:
        only = with_margins([1.0])
        assert only.logits is not None
        only.logits.top2_logit[:] = -np.inf
        assert np.isfinite(early_stop.logit_margin(only)).all()


Scripted = Callable[..., Any]


@pytest.mark.parametrize("rule", list(early_stop.RULES))
def test_the_rest_of_the_block_is_filled_and_counted(scripted: Scripted, rule: str) -> None:
    sure = [0.9995] * 12
    run = scripted([1], range(20, 32), sure, early_stop=rule, config={"block_length": 6})
    stats = run.result.stats
    assert run.result.ids == [*range(20, 32)]
    assert run.result.status == "complete"
    steps = {"stable": STABLE_STEPS + 1, "schedule": 1}[rule]
    assert (stats.nfe, stats.steps) == (2 * steps, 2 * steps)
    assert stats.forced_tokens == 2 * (6 - steps)
    last = run.drafts[steps - 1]
    assert last.committed.tolist() == [True] * 7 + [False] * 6


def test_an_unsure_block_takes_all_its_steps(scripted: Scripted) -> None:
    assert scripted([1], range(20, 28), early_stop="stable").result.stats.nfe == 8


def test_off_by_default(scripted: Scripted) -> None:
    assert scripted([1], range(20, 28), [0.9995] * 8).result.stats.nfe == 8

"""Spare steps go to the least sure tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import _native, remask
from edge.canvas import Canvas
from edge.errors import RequestError

MASK = 256
Scripted = Callable[..., Any]
DYNAMIC = {"sampler": "low_confidence_dynamic", "eos": "forbid", "remask": "conf"}


def finished(confidence: list[float]) -> tuple[Canvas, Any]:
    """Two given tokens, then committed ones."""
    canvas = Canvas.append(np.array([1, 2], np.int32), len(confidence), MASK)
    holes = canvas.holes()
    canvas.commit(holes, holes + 50)
    return canvas, np.array([np.nan, np.nan, *confidence])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 30))
def test_the_least_sure_half_and_no_more_than_there_are_steps(
    confidence: list[float], limit: int
) -> None:
    canvas, known = finished(confidence)
    round_ = next(remask.rounds(canvas, known, (2, len(canvas)), lambda: limit))
    count = min(-(-len(confidence) // 2), limit)
    wanted = sorted(range(len(confidence)), key=lambda i: (confidence[i], i))[:count]
    assert round_.positions.tolist() == [i + 2 for i in wanted]
    assert round_.num_steps == count
    assert canvas.holes().tolist() == sorted(round_.positions.tolist())
    assert (canvas.ids[canvas.holes()] == MASK).all()


def test_only_within_the_span_and_never_what_was_given() -> None:
    canvas, known = finished([0.1] * 8)
    round_ = next(remask.rounds(canvas, known, (0, 5), lambda: 9))
    assert round_.positions.tolist() == [2, 3]


def spend(canvas: Canvas, known: Any, steps: int, changes: int) -> list[list[int]]:
    """The positions of each round, the first ``changes`` of which bring other tokens."""
    seen: list[list[int]] = []
    left = [steps]
    for round_ in remask.rounds(canvas, known, (2, len(canvas)), lambda: left[0]):
        new = 100 + len(seen) if len(seen) < changes else 50 + round_.positions
        canvas.commit(round_.positions, np.zeros(len(round_.positions), np.int32) + new)
        known[round_.positions] = 0.45
        left[0] -= round_.num_steps
        seen.append(round_.positions.tolist())
    assert left[0] >= 0
    return seen


def test_ends_with_a_round_that_changes_nothing() -> None:
    canvas, known = finished([0.5, 0.2, 0.4, 0.3])
    assert spend(canvas, known, steps=9, changes=0) == [[3, 5]]


def test_goes_on_with_the_confidences_of_the_last_round() -> None:
    canvas, known = finished([0.5, 0.2, 0.4, 0.3])
    assert spend(canvas, known, steps=7, changes=9) == [[3, 5], [4, 3], [3, 4], [3]]


@given(st.integers(1, 40))
def test_ends_with_the_steps_though_every_round_changes_something(steps: int) -> None:
    canvas, known = finished([0.5, 0.2, 0.4, 0.3])
    assert sum(map(len, spend(canvas, known, steps, changes=99))) == steps


@pytest.mark.parametrize("period", [2, 3])
def test_ends_where_it_goes_in_circles(period: int) -> None:
    canvas, known = finished([0.4, 0.4])
    rounds = 0
    for round_ in remask.rounds(canvas, known, (2, 4), lambda: 99):
        rounds += 1
        token = 60 + rounds % period
        canvas.commit(round_.positions, np.full(len(round_.positions), token, np.int32))
    assert rounds <= period + 1


def test_ends_when_no_step_is_left() -> None:
    canvas, known = finished([0.5, 0.2, 0.4, 0.3])
    assert list(remask.rounds(canvas, known, (2, 6), lambda: 0)) == []
    assert list(remask.rounds(canvas, known, (0, 2), lambda: 5)) == []


def test_an_unfinished_round_can_be_undone() -> None:
    canvas, known = finished([0.5, 0.2, 0.4, 0.3])
    before = canvas.ids.copy()
    round_ = next(remask.rounds(canvas, known, (2, 6), lambda: 9))
    canvas.commit(round_.positions[:1], np.array([99], np.int32))
    round_.undo()
    np.testing.assert_array_equal(canvas.ids, before)
    assert canvas.committed.all()


@pytest.mark.parametrize("position", [0, 3])
def test_what_was_given_and_holes_cannot_be_remasked(position: int) -> None:
    canvas = Canvas.append(np.array([1], np.int32), 3, MASK)
    with pytest.raises(ValueError, match="only what was committed"):
        canvas.remask(np.array([position], np.int32))


class TestRuns:
    """The scripted denoiser never changes its mind, so one round is made."""

    def test_spare_steps_are_spent_at_the_end(self, scripted: Scripted) -> None:
        sure = [0.95, 0.96, 0.2, 0.97, 0.95, 0.96, 0.3, 0.97]
        plain = scripted([1], range(20, 28), sure, **{**DYNAMIC, "remask": "none"})
        run = scripted([1], range(20, 28), sure, **DYNAMIC)
        assert plain.result.stats.nfe == 4  # of 8 planned
        assert run.result.ids == plain.result.ids == [*range(20, 28)]
        assert run.result.stats.remasked_tokens == 4
        remasked = run.drafts[4]
        assert [i for i in range(9) if not remasked.committed[i]] == [3, 7]
        assert run.result.stats.nfe == run.result.stats.steps <= 8

    def test_without_spare_steps_nothing_happens(self, scripted: Scripted) -> None:
        run = scripted([1], range(20, 28), **{**DYNAMIC, "sampler": None})
        assert (run.result.stats.nfe, run.result.stats.remasked_tokens) == (8, 0)

    def test_more_steps_than_holes_are_spare_steps(self, scripted: Scripted) -> None:
        run = scripted([1], range(20, 28), steps=11, **{**DYNAMIC, "sampler": None})
        assert (run.result.stats.nfe, run.result.stats.remasked_tokens) == (11, 3)

    def test_text_is_given_out_when_it_is_settled(self, scripted: Scripted) -> None:
        run = scripted([1], range(20, 28), [0.95] * 8, **DYNAMIC)
        assert [commit.ids for commit in run.commits] == [[*range(20, 28)]]
        assert run.events.index(run.commits[0]) == len(run.events) - 2

    def test_neither_the_end_token_nor_what_follows(self, scripted: Scripted) -> None:
        eos = 257
        options = {**DYNAMIC, "eos": "stop"}
        run = scripted([1], [20, 21, eos, 30, 40, 41, 42, 43], [0.95] * 8, **options)
        assert run.result.status == "eos"
        assert run.result.ids == [20, 21]
        assert run.result.stats.remasked_tokens == 1

    def test_an_end_token_behind_the_span_does_not_end_the_rounds(
        self, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def two_rounds(canvas: Canvas, _: Any, span: tuple[int, int], __: Any) -> Any:
            for position in (1, 2):
                positions = np.array([position], np.int32)
                before = canvas.ids[positions]
                canvas.remask(positions)
                yield remask.Round(positions, 1, canvas, before)
            assert span == (1, 3)

        monkeypatch.setattr(remask, "rounds", two_rounds)
        options = {**DYNAMIC, "eos": "stop"}
        run = scripted([1], [20, 21, 257, 30, 40, 41, 42, 43], [0.95] * 8, **options)
        assert (run.result.status, run.result.ids) == ("eos", [20, 21])
        assert run.result.stats.remasked_tokens == 2

    @pytest.mark.parametrize("after", [3, 4, 5])
    def test_a_cancelled_round_leaves_the_finished_answer(
        self, scripted: Scripted, after: int
    ) -> None:
        cancel = _native.CancelFlag()
        sure = [0.95, 0.96, 0.2, 0.97, 0.95, 0.96, 0.3, 0.97]
        run = scripted(
            [1],
            range(20, 28),
            sure,
            cancel=cancel,
            on_forward=lambda n: cancel.set() if n == after else None,
            **DYNAMIC,
        )
        assert run.result.status == "cancelled"
        assert run.result.ids == ([*range(20, 28)] if after > 3 else [*range(20, 26)])

    def test_not_in_a_published_loop(self, scripted: Scripted) -> None:
        for option in (
            {"remask": "conf"},
            {"early_stop": "stable"},
            {"credit": True},
            {"cache": "dual"},
            {"fused": True},
        ):
            with pytest.raises(RequestError, match=f"{next(iter(option))} and reference are both"):
                scripted([1], range(20, 24), reference=True, **option)

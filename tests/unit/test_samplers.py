"""The rules that pick what to commit, and the floor under all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge import samplers
from edge.canvas import RowStats
from edge.errors import RequestError
from edge.samplers.base import BlockProgress, Sampler, SamplerOptions, with_progress_floor
from edge.samplers.low_confidence import LowConfidenceDynamic, LowConfidenceStatic

Rows = Callable[[Any], RowStats]


def stats(confidence: Any) -> RowStats:
    values = np.asarray(confidence, np.float32)
    places = np.arange(len(values), dtype=np.int32)
    return RowStats(places, places, values, values, 1 - values)


def published_schedule(num_holes: int, num_steps: int) -> list[int]:
    """get_num_transfer_tokens of LLaDA's generate.py."""
    base, remainder = num_holes // num_steps, num_holes % num_steps
    counts = [base] * num_steps
    for i in range(remainder):
        counts[i] += 1
    return counts


@given(num_holes=st.integers(1, 64), num_steps=st.integers(1, 80))
def test_static_commits_as_many_as_published(num_holes: int, num_steps: int) -> None:
    rule, committed, counts = LowConfidenceStatic(SamplerOptions()), 0, []
    for step in range(num_steps):
        progress = BlockProgress(step, num_steps, num_holes, committed)
        counts.append(len(rule.choose(stats(np.zeros(num_holes - committed)), progress)))
        committed += counts[-1]
    assert counts == published_schedule(num_holes, num_steps)
    assert committed == num_holes


@given(
    confidence=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30),
    num_steps=st.integers(1, 5),
)
def test_static_takes_the_most_confident(confidence: list[float], num_steps: int) -> None:
    chosen = LowConfidenceStatic(SamplerOptions()).choose(
        stats(confidence), BlockProgress(0, num_steps, len(confidence), 0)
    )
    by_confidence = sorted(range(len(confidence)), key=lambda i: (-confidence[i], i))
    assert chosen.tolist() == by_confidence[: -(-len(confidence) // num_steps)]


@given(
    confidence=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30),
    threshold=st.floats(1 / 64, 1.0, width=32),
)
def test_dynamic_takes_all_above_the_threshold(confidence: list[float], threshold: float) -> None:
    chosen = LowConfidenceDynamic(SamplerOptions(threshold)).choose(
        stats(confidence), BlockProgress(0, 1, 9, 0)
    )
    above = [i for i, value in enumerate(confidence) if value > threshold]
    assert sorted(chosen.tolist()) == (above or [int(np.argmax(confidence))])


def test_dynamic_commits_only_above_not_at_the_threshold() -> None:
    chosen = LowConfidenceDynamic(SamplerOptions(0.5)).choose(
        stats([0.5, 0.75, 0.5]), BlockProgress(0, 3, 3, 0)
    )
    assert chosen.tolist() == [1]


@pytest.mark.parametrize("make", [LowConfidenceStatic, LowConfidenceDynamic])
def test_of_equal_confidences_the_first_position_wins(make: type[Sampler]) -> None:
    rule = make(SamplerOptions())
    first = rule.choose(stats([0.25, 0.5, 0.5, 0.5]), BlockProgress(0, 4, 4, 0))
    assert first.tolist() == [1]
    assert rule.choose(stats([0.5] * 40), BlockProgress(0, 40, 40, 0)).tolist() == [0]


def floored(
    rule: Sampler, confidences: list[float], num_steps: int
) -> tuple[list[int], list[NDArray[np.intp]]]:
    """Run a block to its end: committed after each step, and the choices."""
    open_rows = list(range(len(confidences)))
    counts, choices = [], []
    for step in range(num_steps):
        if not open_rows:
            break
        rows = stats([confidences[row] for row in open_rows])
        done = len(confidences) - len(open_rows)
        progress = BlockProgress(step, num_steps, len(confidences), done)
        chosen = with_progress_floor(rule.choose(rows, progress), rule.rank(rows), progress)
        assert len(set(chosen.tolist())) == len(chosen)
        choices.append(chosen)
        open_rows = [row for i, row in enumerate(open_rows) if i not in set(chosen.tolist())]
        counts.append(len(confidences) - len(open_rows))
    return counts, choices


@given(
    confidences=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40),
    num_steps=st.integers(1, 12),
    name=st.sampled_from(samplers.names()),
    threshold=st.floats(0.1, 1.0),
)
def test_progress_floor(
    confidences: list[float], num_steps: int, name: str, threshold: float
) -> None:
    counts, choices = floored(
        samplers.find(name)(SamplerOptions(threshold)), confidences, num_steps
    )
    num_holes = len(confidences)
    for step, committed in enumerate(counts, start=1):
        assert committed >= -(-num_holes * step // num_steps)
    assert all(len(chosen) for chosen in choices)
    assert counts[-1] == num_holes


def test_an_unsure_rule_is_carried_by_the_floor() -> None:
    """After step i of S exactly ceil(M * i / S), when the rule finds one at a time."""
    for num_holes in range(1, 25):
        for num_steps in range(1, num_holes + 1):
            rule = LowConfidenceDynamic(SamplerOptions(1.0))
            counts, _ = floored(rule, [0.5] * num_holes, num_steps)
            due = [-(-num_holes * i // num_steps) for i in range(1, num_steps + 1)]
            assert counts == due


def test_the_floor_adds_the_best_of_the_rest(rows: Rows) -> None:
    given_rows = rows([0.95, 0.2, 0.6, 0.4])
    rule = LowConfidenceDynamic(SamplerOptions())
    progress = BlockProgress(step=0, num_steps=2, num_holes=6, num_committed=0)
    chosen = with_progress_floor(rule.choose(given_rows, progress), given_rows.confidence, progress)
    assert chosen.tolist() == [0, 2, 3]


def test_the_floor_leaves_enough_alone(rows: Rows) -> None:
    chosen = np.array([2, 0])
    progress = BlockProgress(step=0, num_steps=3, num_holes=6, num_committed=0)
    kept = with_progress_floor(chosen, rows([0.1, 0.2, 0.3]).confidence, progress)
    assert kept.tolist() == [2, 0]


def test_the_static_schedule_never_needs_the_floor() -> None:
    for num_holes in range(1, 33):
        for num_steps in range(1, num_holes + 1):
            counts, _ = floored(LowConfidenceStatic(SamplerOptions()), [0.5] * num_holes, num_steps)
            assert counts == np.cumsum(published_schedule(num_holes, num_steps)).tolist()


def test_names_and_traits() -> None:
    assert {"low_confidence_static", "low_confidence_dynamic"} <= set(samplers.names())
    assert "threshold" not in samplers.find("low_confidence_static").uses
    assert "threshold" in samplers.find("low_confidence_dynamic").uses


def test_an_unknown_sampler_is_told_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'fast'.*low_confidence_static, low_confidence_dyn"):
        samplers.find("fast")

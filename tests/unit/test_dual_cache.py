"""When an approximate cache is refreshed, what a forward computes, what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.canvas import Block, RowLogits, RowStats
from edge.dual_cache import DualCache

LENGTH = 100
BLOCK = Block(40, 48, 40, whole=True)
NEXT = Block(48, 56, 48, whole=True)


def rows(tokens: Any, confidence: Any, start: int = 40) -> RowStats:
    values = np.asarray(confidence, np.float32)
    positions = np.arange(start, start + len(values), dtype=np.int32)
    return RowStats(positions, np.asarray(tokens, np.int32), values, values, values)


def steps_until_due(cache: DualCache, drift: float) -> int:
    """Approximate steps that never change a token until a refresh is due; then the refresh."""
    count = 1
    while not cache.is_due(BLOCK, 40):
        cache.reused(rows([1, 2], [0.5, 0.5]))
        count += 1
    cache.refreshed(BLOCK, 40, rows([1, 2], [0.5 + drift, 0.5 - drift]))
    return count


def fresh(max_steps: int = 8) -> DualCache:
    cache = DualCache(LENGTH, 16, max_steps)
    cache.refreshed(BLOCK, 40, rows([1, 2], [0.5, 0.5]))
    return cache


@pytest.mark.parametrize(
    ("block", "span"),
    [
        (BLOCK, (24, 64)),
        (Block(0, 8, 0, whole=True), (0, 24)),
        (Block(96, 100, 96, whole=False), (80, 100)),
    ],
)
def test_the_block_and_its_surroundings(block: Block, span: tuple[int, int]) -> None:
    assert DualCache(LENGTH, 16).span(block) == span


def test_the_entry_of_a_block_is_a_refresh() -> None:
    cache = DualCache(LENGTH, 16)
    assert cache.is_due(BLOCK, 40)
    cache.refreshed(BLOCK, 40, rows([1], [0.5]))
    assert not cache.is_due(BLOCK, 41)
    assert cache.is_due(NEXT, 41)


@pytest.mark.parametrize(("committed", "due"), [(40, False), (44, False), (45, True)])
def test_commits_of_more_than_half_a_block(committed: int, due: bool) -> None:
    assert fresh().is_due(BLOCK, committed) == due


def test_every_eight_steps() -> None:
    assert steps_until_due(fresh(), drift=0.05) == 8


def test_drift_halves_and_rest_doubles_the_interval() -> None:
    cache = fresh()
    lengths = [steps_until_due(cache, drift) for drift in (0.2, 0.2, 0.0, 0.0, 0.0, 0.0)]
    assert lengths == [8, 4, 2, 4, 8, 8]


def test_the_interval_never_falls_below_a_step() -> None:
    cache = fresh()
    assert [steps_until_due(cache, 0.4) for _ in range(5)] == [8, 4, 2, 1, 1]


def test_with_every_step_a_refresh_nothing_is_approximated() -> None:
    assert steps_until_due(fresh(max_steps=1), drift=0.0) == 1
    assert fresh(max_steps=1).num_approximate == 0


def test_where_the_window_covers_the_canvas_every_forward_is_full() -> None:
    cache = DualCache(LENGTH, 60)
    cache.refreshed(BLOCK, 40, rows([1], [0.5]))
    assert cache.is_due(BLOCK, 40)


@given(committed=st.integers(40, 60), steps=st.integers(0, 12), on=st.booleans())
def test_the_cost_is_that_of_the_next_forward(committed: int, steps: int, on: bool) -> None:
    cache = fresh()
    cache.is_on = on
    for _ in range(steps):
        cache.reused(rows([1], [0.5]))
    start, stop = cache.span(BLOCK)
    full = cache.is_due(BLOCK, committed)
    assert cache.num_active(BLOCK, committed) == (LENGTH if full else stop - start)
    assert full or on


def test_disagreement_counts_open_rows_that_both_forwards_saw() -> None:
    cache = fresh()
    assert cache.top1_disagreement is None
    cache.reused(rows([1, 2, 3, 4], [0.5] * 4, start=40))
    cache.refreshed(BLOCK, 42, rows([3, 9], [0.5] * 2, start=42))  # 40 and 41 are committed
    assert cache.top1_disagreement == 0.5


def test_a_refresh_after_a_refresh_compares_nothing() -> None:
    cache = fresh()
    cache.refreshed(BLOCK, 41, rows([5, 6], [0.1, 0.1]))
    cache.reused(rows([1, 2], [0.5, 0.5]))
    cache.refreshed(NEXT, 48, rows([7], [0.5], start=48))
    assert cache.top1_disagreement is None
    assert cache.num_refreshes == 3


def test_drawn_tokens_do_not_count_as_disagreement() -> None:
    cache = fresh()
    seven, zero = np.array([7], np.int32), np.zeros(1, np.float32)
    best = RowLogits(seven, zero, zero, zero, seven, zero, zero)
    for token, note in ((1, cache.reused), (2, lambda r: cache.refreshed(BLOCK, 40, r))):
        position, drawn = np.array([[40], [token]], np.int32)
        note(RowStats(position, drawn, zero, zero, zero, best))
    assert cache.top1_disagreement == 0

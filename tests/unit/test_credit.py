"""Credit by a few numbers per row equals credit by whole matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.backends.base import LogitBias
from edge.canvas import RowLogits, RowStats
from edge.credit import ALPHA, BETA, GAMMA, Credit

VOCAB = 7


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def as_backend(logits: NDArray[np.float32], positions: Any, bias: LogitBias) -> RowStats:
    """Statistics of rows of logits as the native head gives them."""
    biased = logits.copy()
    for row in range(len(logits)):
        cells = slice(bias.starts[row], bias.starts[row + 1])
        biased[row, bias.ids[cells]] += bias.values[cells]
    log_z = np.log(np.exp(biased.astype(np.float64)).sum(axis=1))
    sure = softmax(biased.astype(np.float64))
    ordered = np.sort(biased, axis=1)
    entropy = -(sure * np.log(sure)).sum(axis=1).astype(np.float32)
    plain_log_z = np.log(np.exp(logits.astype(np.float64)).sum(axis=1)).astype(np.float32)
    top1 = biased.argmax(axis=1).astype(np.int32)
    given_logits = RowLogits(
        top1,
        ordered[:, -1],
        ordered[:, -2],
        log_z.astype(np.float32),
        logits.argmax(axis=1).astype(np.int32),
        logits.max(axis=1),
        plain_log_z,
    )
    zeros = np.zeros(len(logits), np.float32)
    return RowStats(np.asarray(positions, np.int32), top1, zeros, zeros, entropy, given_logits)


class Dense:
    """The paper's formula on [positions, vocab]."""

    def __init__(self, num_positions: int) -> None:
        self.credits = np.zeros((num_positions, VOCAB))

    def fused(self, logits: Any, positions: Any) -> Any:
        probability = softmax(logits.astype(np.float64))
        rows, best = np.arange(len(logits)), logits.argmax(axis=1)
        self.credits[positions] *= BETA
        self.credits[positions, best] += probability[rows, best] ** GAMMA
        return logits + ALPHA * np.log1p(self.credits[positions])


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(0.1, 3.0))
def test_equals_the_formula_on_whole_rows(seed: int, num_steps: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    credit, dense = Credit(), Dense(6)
    open_positions = np.arange(6)
    drift = random.normal(size=(6, VOCAB)) * spread
    for _ in range(num_steps):
        drift = drift + random.normal(size=drift.shape) * 0.5 * spread
        logits = drift[open_positions].astype(np.float32)
        bias = credit.bias(open_positions.astype(np.int32))
        rows = credit.raised(as_backend(logits, open_positions, bias))
        wanted = dense.fused(logits, open_positions)
        sure = softmax(wanted)
        ordered = np.sort(sure, axis=1)
        np.testing.assert_array_equal(rows.tokens, wanted.argmax(axis=1))
        np.testing.assert_allclose(rows.confidence, ordered[:, -1], rtol=1e-4)
        np.testing.assert_allclose(rows.margin, ordered[:, -1] - ordered[:, -2], atol=1e-5)
        np.testing.assert_allclose(rows.entropy, -(sure * np.log(sure)).sum(axis=1), atol=1e-4)
        np.testing.assert_array_equal(rows.top1, logits.argmax(axis=1))
        open_positions = open_positions[random.random(len(open_positions)) < 0.8]
        if not len(open_positions):
            break


def test_a_row_keeps_no_more_cells_than_steps() -> None:
    credit, random = Credit(), np.random.default_rng(0)
    for step in range(1, 6):
        logits = random.normal(size=(4, VOCAB)).astype(np.float32)
        bias = credit.bias(np.arange(4, dtype=np.int32))
        assert len(bias.ids) <= 4 * (step - 1)
        credit.raised(as_backend(logits, range(4), bias))


def test_a_candidate_that_lasts_grows_surer() -> None:
    credit, seen = Credit(), []
    logits = np.array([[1.0, 0.8, 0, 0, 0, 0, 0]], np.float32)
    for _ in range(4):
        bias = credit.bias(np.array([9], np.int32))
        seen.append(float(credit.raised(as_backend(logits, [9], bias)).confidence[0]))
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] > softmax(logits.astype(np.float64)).max()


def test_committed_positions_are_forgotten() -> None:
    credit = Credit()
    logits = np.zeros((2, VOCAB), np.float32)
    credit.raised(as_backend(logits, [3, 4], credit.bias(np.array([3, 4], np.int32))))
    assert len(credit.bias(np.array([3, 4], np.int32)).ids) == 2
    assert len(credit.bias(np.array([4], np.int32)).ids) == 1
    assert len(credit.bias(np.array([3, 4], np.int32)).ids) == 1

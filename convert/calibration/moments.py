"""Second moments of what enters a matrix, and the factor of their inverse that rounding needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LONGEST_BLOCK = 2048  # columns; the moments between blocks are left out
_DAMPING = 0.01  # of the mean moment, added to each


@dataclass
class Moments:
    """``XᵀX`` of inputs [rows, cols], in blocks of neighbouring columns."""

    blocks: list[NDArray[np.float32]]
    num_rows: int = 0
    squares: float = 0.0  # of all inputs
    step_squares: float = 0.0  # of int8's steps for all inputs

    @classmethod
    def of_columns(cls, cols: int) -> Moments:
        """No inputs yet."""
        sizes = [min(LONGEST_BLOCK, cols - first) for first in range(0, cols, LONGEST_BLOCK)]
        return cls([np.zeros((size, size), np.float32) for size in sizes])

    def add(self, inputs: NDArray[np.float32]) -> None:
        """Take in further rows."""
        self.num_rows += len(inputs)
        steps = np.abs(inputs).max(axis=1).astype(np.float64) / 127
        self.squares += float(np.square(inputs, dtype=np.float64).sum())
        self.step_squares += float(np.square(steps).sum()) * inputs.shape[1]
        first = 0
        for block in self.blocks:
            part = inputs[:, first : first + len(block)]
            block += part.T @ part
            first += len(block)

    @property
    def diagonal(self) -> NDArray[np.float64]:
        """Each column's mean square."""
        sums = np.concatenate([np.diagonal(block) for block in self.blocks])
        return sums.astype(np.float64) / max(1, self.num_rows)

    @property
    def int8_noise(self) -> float:
        """The share of the inputs' energy that rounding their rows to int8 adds as noise."""
        return self.step_squares / 12 / self.squares if self.squares else 0.0

    def factors(self) -> list[NDArray[np.float32]]:
        """Of each block the upper triangular U with ``UᵀU`` the inverse of the damped moments."""
        return [_inverse_factor(block) for block in self.blocks]


def _inverse_factor(moments: NDArray[np.float32]) -> NDArray[np.float32]:
    damped = moments.astype(np.float64)
    mean = float(np.diagonal(damped).mean())
    damped[np.diag_indices(len(damped))] += _DAMPING * mean if mean > 0 else 1.0
    # Backwards, since the lower factor of the reversed matrix is the upper one of the inverse.
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    return np.triu(np.linalg.inv(lower)[::-1, ::-1]).astype(np.float32)


def weighted_error(
    values: NDArray[np.float32], stored: NDArray[np.float32], mean_squares: NDArray[np.float64]
) -> float:
    """What rounding `values` [rows, cols] adds to the squares of the outputs, per input row."""
    squares = np.square(stored.astype(np.float64) - values)
    return float((squares @ mean_squares).sum())

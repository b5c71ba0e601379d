"""Second moments of what enters a matrix, and the factor of their inverse that rounding needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LONGEST_BLOCK = 2048  # columns; the moments between blocks are left out
_DAMPING = 0.01  # of the mean moment, added to each
_MOST_SAMPLED = 256  # rows


@dataclass
class Moments:
    """``XᵀX`` of inputs [rows, cols], in blocks of neighbouring columns, and some of the rows.

    `peaks` are the columns' largest magnitudes, `sample` is every `stride`-th row.
    """

    blocks: list[NDArray[np.float32]]
    peaks: NDArray[np.float32]
    sample: NDArray[np.float32]
    num_rows: int = 0
    stride: int = 1

    @classmethod
    def of_columns(cls, cols: int) -> Moments:
        """No inputs yet."""
        sizes = [min(LONGEST_BLOCK, cols - first) for first in range(0, cols, LONGEST_BLOCK)]
        blocks = [np.zeros((size, size), np.float32) for size in sizes]
        return cls(blocks, np.zeros(cols, np.float32), np.zeros((0, cols), np.float32))

    def add(self, inputs: NDArray[np.float32]) -> None:
        """Take in further rows."""
        self._sample(inputs)
        self.num_rows += len(inputs)
        np.maximum(self.peaks, np.abs(inputs).max(axis=0), out=self.peaks)
        first = 0
        for block in self.blocks:
            part = inputs[:, first : first + len(block)]
            block += part.T @ part
            first += len(block)

    def _sample(self, inputs: NDArray[np.float32]) -> None:
        chosen = inputs[-self.num_rows % self.stride :: self.stride]
        self.sample = np.concatenate([self.sample, chosen])
        while len(self.sample) > _MOST_SAMPLED:
            self.sample, self.stride = self.sample[::2].copy(), 2 * self.stride

    def divide(self, exponents: NDArray[np.int32]) -> None:
        """As if each column of the inputs had been divided by two to its exponent."""
        self.peaks = np.ldexp(self.peaks, -exponents)
        self.sample = np.ldexp(self.sample, -exponents)
        first = 0
        for block in self.blocks:
            part = exponents[first : first + len(block)]
            block[:] = np.ldexp(block, -(part[:, None] + part))
            first += len(block)

    @property
    def diagonal(self) -> NDArray[np.float64]:
        """Each column's mean square."""
        sums = np.concatenate([np.diagonal(block) for block in self.blocks])
        return sums.astype(np.float64) / max(1, self.num_rows)

    @property
    def int8_noise(self) -> float:
        """The share of the inputs' energy that rounding their rows to int8 adds as noise."""
        squares = np.square(self.sample, dtype=np.float64)
        steps = np.sqrt(squares.max(axis=1, initial=0.0)) / 127
        noise = np.square(steps).sum() / 12 * self.sample.shape[1]
        return float(noise / squares.sum()) if squares.any() else 0.0

    def factors(self) -> list[NDArray[np.float32]]:
        """Of each block the upper triangular U with ``UᵀU`` the inverse of the damped moments."""
        return [inverse_factor(block) for block in self.blocks]


def inverse_factor(moments: NDArray[np.float32]) -> NDArray[np.float32]:
    """The upper triangular U with ``UᵀU`` the inverse of the damped moments."""
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

"""The last word of the denoiser on every position, for filling holes without another forward."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats


class Guesses:
    """Latest candidate per position of a canvas; ``used`` says whether any was needed."""

    def __init__(self, length: int) -> None:
        self._known = np.zeros(length, bool)
        self._tokens = np.zeros(length, np.int32)
        self._figures = np.zeros((3, length), np.float32)
        self.used = False

    def take(self, rows: RowStats) -> None:
        """Remember what a forward said."""
        self._known[rows.positions] = True
        self._tokens[rows.positions] = rows.tokens
        self._figures[:, rows.positions] = rows.confidence, rows.margin, rows.entropy

    def cover(self, positions: NDArray[np.int32]) -> bool:
        """Whether there is a guess for each of the positions."""
        return bool(self._known[positions].all())

    def use(self, positions: NDArray[np.int32]) -> RowStats:
        """Return the guesses for the positions."""
        self.used = True
        confidence, margin, entropy = self._figures[:, positions]
        return RowStats(positions, self._tokens[positions], confidence, margin, entropy)

"""The last word of the denoiser on open positions: shown, and used where no forward has time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.canvas import Canvas, RowStats
from edge.result import Draft


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


def draft_of(
    canvas: Canvas, rows: RowStats, step: int, nfe: int, block: int, num_blocks: int
) -> Draft:
    """Return a copy of the canvas, with what the rows say of its holes."""
    draft_ids = canvas.ids.copy()
    confidence = np.full(len(canvas), np.nan, np.float32)
    open_rows = ~canvas.committed[rows.positions]
    draft_ids[rows.positions[open_rows]] = rows.tokens[open_rows]
    confidence[rows.positions] = rows.confidence
    return Draft(
        step=step,
        nfe=nfe,
        block=block,
        num_blocks=num_blocks,
        output_start=canvas.output_start,
        ids=canvas.ids.copy(),
        draft_ids=draft_ids,
        committed=canvas.committed.copy(),
        confidence=confidence,
        given=canvas.given.copy(),
    )

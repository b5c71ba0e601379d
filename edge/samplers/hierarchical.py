"""Commit far apart: the best position of every run of holes.

Reference implementation: hierarchy decoding of inclusionAI/dInfer (Ma et al. 2025, "dInfer: an
efficient inference framework for diffusion language models", arXiv 2510.08666).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.samplers.base import BlockProgress, SamplerOptions


class Hierarchical:
    """Commit the best of every run of adjacent holes if it is above ``segment_threshold``.

    All above ``threshold`` are committed as well, and the best of all in any case. Holes with
    committed text between them depend on each other least, so each commit halves a run and the
    next step may take both halves.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"threshold", "segment_threshold"})
    reference_runs_all_steps: ClassVar[bool] = False

    def __init__(self, options: SamplerOptions) -> None:
        self._threshold = options.threshold
        self._segment_threshold = options.segment_threshold

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the rows as indices, ascending."""
        del progress
        confidence = rows.confidence
        chosen = confidence > self._threshold
        borders = np.flatnonzero(np.diff(rows.positions) > 1) + 1
        for segment in np.split(np.arange(len(confidence)), borders):
            first = segment[np.argmax(confidence[segment])]
            chosen[first] |= confidence[first] > self._segment_threshold
        chosen[np.argmax(confidence)] = True
        return np.flatnonzero(chosen)

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank by the probability of the candidate."""
        return rows.confidence.astype(np.float64)

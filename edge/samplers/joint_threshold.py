"""Commit what is sure, and replace what the model has changed its mind about.

Reference implementation: the generation code published with LLaDA2.1 (inclusionAI), whose
denoisers are trained to correct tokens that stand, not only to fill masks. Its presets are those
of the model's report and of SGLang's JointThreshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.samplers.base import BlockProgress, SamplerOptions, best


class JointThreshold:
    """All holes above ``threshold``, the best one always; edits above ``edit_threshold``.

    Once a part has no hole left, at most ``post_edit_steps`` further steps only edit, until one
    of them edits nothing.
    """

    uses: ClassVar[frozenset[str]] = frozenset(
        {"threshold", "edit_threshold", "post_edit_steps", "preset"}
    )
    reference_runs_all_steps: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "quality": {"threshold": 0.7, "edit_threshold": 0.5, "post_edit_steps": 16},
        "speed": {"threshold": 0.5, "edit_threshold": 0.0, "post_edit_steps": 16},
    }

    def __init__(self, options: SamplerOptions) -> None:
        self._threshold = options.threshold
        self._edit_threshold = options.edit_threshold
        self.post_edit_steps = options.post_edit_steps

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the holes above the threshold, or the best one."""
        del progress
        sure = np.flatnonzero(rows.confidence > self._threshold)
        return sure if len(sure) else best(self.rank(rows), 1)

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank by the probability of the candidate."""
        return rows.confidence.astype(np.float64)

    def edits(self, rows: RowStats, tokens: NDArray[np.int32]) -> NDArray[np.intp]:
        """Return those of the rows, where ``tokens`` [rows] stand, that take another token."""
        return np.flatnonzero((rows.tokens != tokens) & (rows.confidence > self._edit_threshold))

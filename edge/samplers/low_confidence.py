"""Commit the positions whose token the model is surest of.

Static: a fixed number per step. Nie et al. 2025, "Large Language Diffusion Models" (LLaDA),
reference implementation: generate.py of ML-GSAI/LLaDA, remasking="low_confidence".

Dynamic: all above a threshold. Wu et al. 2025, "Fast-dLLM", reference implementation:
NVlabs/Fast-dLLM, confidence-aware parallel decoding.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.samplers.base import BlockProgress, best


class LowConfidenceStatic:
    """With M holes and S steps, step i commits M // S positions, one more while i < M % S."""

    uses_threshold: ClassVar[bool] = False
    reference_runs_all_steps: ClassVar[bool] = True

    def __init__(self, threshold: float) -> None:
        del threshold  # every sampler is made the same way

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the most confident rows."""
        share, remainder = divmod(progress.num_holes, progress.num_steps)
        return best(self.rank(rows), share + (progress.step < remainder))

    def rank(self, rows: RowStats) -> NDArray[np.float32]:
        """Rank by the probability of the candidate."""
        return rows.confidence


class LowConfidenceDynamic:
    """Commit every position with confidence above the threshold, the most confident one always."""

    uses_threshold: ClassVar[bool] = True
    reference_runs_all_steps: ClassVar[bool] = False

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the rows above the threshold, or the best one."""
        del progress
        sure = np.flatnonzero(rows.confidence > self._threshold)
        return sure if len(sure) else best(self.rank(rows), 1)

    def rank(self, rows: RowStats) -> NDArray[np.float32]:
        """Rank by the probability of the candidate."""
        return rows.confidence

"""Commit the positions whose token the model is surest of.

Static: a fixed number per step. Nie et al. 2025, "Large Language Diffusion Models" (LLaDA),
reference implementation: generate.py of ML-GSAI/LLaDA, remasking="low_confidence" and "random".

Dynamic: all above a threshold. Wu et al. 2025, "Fast-dLLM", reference implementation:
NVlabs/Fast-dLLM, confidence-aware parallel decoding; the published loop of SDAR
(JetAstra/SDAR) commits at least its static share.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.samplers.base import BlockProgress, SamplerOptions, best, rank_by


class LowConfidenceStatic:
    """With M holes and S steps, step i commits M // S positions, one more while i < M % S."""

    uses: ClassVar[frozenset[str]] = frozenset({"rank"})
    reference_runs_all_steps: ClassVar[bool] = True

    def __init__(self, options: SamplerOptions) -> None:
        self._options = options

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the first rows by rank."""
        return best(self.rank(rows), progress.share)

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank as the options say, by default by the probability of the candidate."""
        return rank_by(self._options.rank, rows, self._options.seed)


class Random(LowConfidenceStatic):
    """The static number per step, anywhere: the baseline of the LLaDA paper."""

    uses: ClassVar[frozenset[str]] = frozenset()

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank by a seeded draw."""
        return rank_by("random", rows, self._options.seed)


class Sequential(LowConfidenceStatic):
    """The static number per step, from left to right."""

    uses: ClassVar[frozenset[str]] = frozenset()

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank by position, the first highest."""
        return -rows.positions.astype(np.float64)


class LowConfidenceDynamic:
    """Commit every position with confidence above the threshold, the best one always."""

    uses: ClassVar[frozenset[str]] = frozenset({"threshold", "rank"})
    reference_runs_all_steps: ClassVar[bool] = False

    def __init__(self, options: SamplerOptions) -> None:
        self._options = options

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the rows above the threshold, or the best one."""
        sure = np.flatnonzero(rows.confidence > self._options.threshold)
        least = max(1, progress.share) if progress.keeps_share else 1
        return sure if len(sure) >= least else best(self.rank(rows), least)

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank as the options say, by default by the probability of the candidate."""
        return rank_by(self._options.rank, rows, self._options.seed)

"""A quota that grows with the steps, and whatever is sure beyond it.

Reference implementation: BlockRefinementScheduler of huggingface/diffusers, for the mask process
and without its editing, which needs a denoiser trained for it (LLaDA2.1).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.samplers.base import BlockProgress, SamplerOptions, best


class BlockRefinement:
    """After step i of S, ceil(i * M / S) of M holes are filled; all above the threshold as well.

    The quota is cumulative: what sure positions committed early is not asked for again.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"threshold"})
    reference_runs_all_steps: ClassVar[bool] = False

    def __init__(self, options: SamplerOptions) -> None:
        self._threshold = options.threshold

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the sure rows, or the best ones up to the quota where that is more."""
        order = best(self.rank(rows), len(rows.positions))
        num_sure = int(np.count_nonzero(rows.confidence > self._threshold))
        return order[: max(num_sure, progress.due - progress.num_committed, 1)]

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank by the probability of the candidate."""
        return rows.confidence.astype(np.float64)

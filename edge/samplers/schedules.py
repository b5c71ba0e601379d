"""Rules whose count per step comes from a noise schedule.

Timestep: Ye et al. 2025, "Dream 7B", reference implementation: generation_utils.py of
Dream-org/Dream (alg "maskgit_plus", "topk_margin", "entropy" are the ranks confidence, margin,
entropy; eps 1e-3).

Linear: the MDLM sampler of ZHZisZZ/dllm with its linear schedule and remasking="low_confidence".
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.samplers.base import BlockProgress, SamplerOptions, best, rank_by

_EPS = 1e-3  # the noise level that Dream's schedule ends at


class Timestep:
    """With n holes left, step i commits int(n * (1 - t[i+1] / t[i])), the last step all.

    t runs from 1 to eps in equal steps, in float32 as the reference computes it.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"rank"})
    reference_runs_all_steps: ClassVar[bool] = True

    def __init__(self, options: SamplerOptions) -> None:
        self._options = options

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the first rows by rank; none while the schedule's share is below one."""
        left = len(rows.positions)
        if progress.step >= progress.num_steps - 1:
            return best(self.rank(rows), left)
        times = np.linspace(1, _EPS, progress.num_steps + 1, dtype=np.float32)
        share = np.float32(1) - times[progress.step + 1] / times[progress.step]
        return best(self.rank(rows), int(np.float32(left) * share))

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank as the options say."""
        return rank_by(self._options.rank, rows, self._options.seed)


class LinearSchedule:
    """With n holes left, step j of J commits round(n * (1 - s / t)), s and t = (J-j-1)/J, (J-j)/J.

    Halves are rounded to even; steps that would commit nothing are left out.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"rank"})
    reference_runs_all_steps: ClassVar[bool] = False

    def __init__(self, options: SamplerOptions) -> None:
        self._options = options

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the first rows by rank."""
        counts = linear_counts(progress.num_holes, progress.num_steps)
        count = counts[progress.step] if progress.step < len(counts) else len(rows.positions)
        return best(self.rank(rows), count)

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank as the options say."""
        return rank_by(self._options.rank, rows, self._options.seed)


def linear_counts(num_holes: int, num_steps: int) -> list[int]:
    """Return how many holes each effective step of the linear schedule commits."""
    counts = []
    left = num_holes
    for j in range(num_steps, 0, -1):
        t, s = j / num_steps, (j - 1) / num_steps
        count = min(round(left * (1 - s / t)), left)
        left -= count
        if count:
            counts.append(count)
    return counts

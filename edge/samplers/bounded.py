"""Rules that bound the error of committing several positions at once.

Factor: Wu et al. 2025, "Fast-dLLM", theorem 1 and its factor strategy, reference implementation:
NVlabs/Fast-dLLM.

Entropy bounded: Ben-Hamu et al. 2025, "Accelerated sampling from masked diffusion models via
entropy bounded unmasking" (arXiv 2505.24857).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.samplers.base import BlockProgress, SamplerOptions, best


class Factor:
    """Commit the n most confident rows, n the largest with (n + 1) * (1 - c_n) < factor."""

    uses: ClassVar[frozenset[str]] = frozenset({"factor"})
    reference_runs_all_steps: ClassVar[bool] = False

    def __init__(self, options: SamplerOptions) -> None:
        self._factor = options.factor

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the rows that the bound admits, at least one."""
        del progress
        order = best(self.rank(rows), len(rows.positions))
        doubts = 1.0 - rows.confidence[order].astype(np.float64)
        admitted = np.flatnonzero(np.arange(2, len(order) + 2) * doubts < self._factor)
        return order[: admitted[-1] + 1 if len(admitted) else 1]

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank by the probability of the candidate."""
        return rows.confidence.astype(np.float64)


class EntropyBounded:
    """Commit the longest run of lowest entropies H with sum(H) - max(H) <= entropy_bound."""

    uses: ClassVar[frozenset[str]] = frozenset({"entropy_bound"})
    reference_runs_all_steps: ClassVar[bool] = False

    def __init__(self, options: SamplerOptions) -> None:
        self._bound = options.entropy_bound

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the rows that the bound admits, at least one."""
        del progress
        order = best(self.rank(rows), len(rows.positions))
        entropies = rows.entropy[order].astype(np.float64)
        before = np.cumsum(entropies) - entropies  # of a sorted run the last one is the largest
        return order[: max(1, int(np.searchsorted(before, self._bound, side="right")))]

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Rank by low entropy."""
        return -rows.entropy.astype(np.float64)

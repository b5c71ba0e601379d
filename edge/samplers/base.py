"""What a sampler is given and what it answers; the progress floor that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats


@dataclass(frozen=True)
class BlockProgress:
    """Where a block stands: step ``step`` (from 0) of ``num_steps`` planned ones.

    ``num_holes`` is how many holes the block had at its start, ``num_committed`` how many of
    them are filled by now.
    """

    step: int
    num_steps: int
    num_holes: int
    num_committed: int


class Sampler(Protocol):
    """A rule; knows statistics, not the model."""

    uses_threshold: ClassVar[bool]
    # The published loop runs every planned step, even when no hole is left.
    reference_runs_all_steps: ClassVar[bool]

    def __init__(self, threshold: float) -> None: ...

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the rows to commit now, as indices, at least one unless ``rows`` is empty."""

    def rank(self, rows: RowStats) -> NDArray[np.float32]:
        """Return [rows] values; the largest is the first to be committed when forced."""


def best(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest values; of equal ones the first come first."""
    return np.argsort(-values, kind="stable")[:count]


def with_progress_floor(
    chosen: NDArray[np.intp], rank: NDArray[np.float32], progress: BlockProgress
) -> NDArray[np.intp]:
    """Add the best further rows until ceil(holes * i / steps) are committed after step i.

    A block is thereby full after its planned steps, whatever the rule finds.
    """
    due = -(-progress.num_holes * (progress.step + 1) // progress.num_steps)
    missing = due - progress.num_committed - len(chosen)
    if missing <= 0:
        return chosen
    rest = rank.copy()
    rest[chosen] = -np.inf
    return np.concatenate([chosen, best(rest, min(missing, len(rank) - len(chosen)))])

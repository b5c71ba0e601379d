"""What a sampler is given and what it answers; the progress floor that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats


@dataclass(frozen=True)
class SamplerOptions:
    """Parameters of the rules; each rule names those it uses.

    ``threshold`` and ``segment_threshold`` are probabilities, ``entropy_bound`` is in nats,
    ``factor`` as in Fast-dLLM, ``rank`` one of ``edge.config.RANKS``. ``seed`` only matters for
    the rank ``random``. ``edit_threshold`` is a probability, ``post_edit_steps`` how many steps
    may only edit.
    """

    threshold: float = 0.9
    segment_threshold: float = 0.4
    factor: float = 1.0
    entropy_bound: float = 0.1
    rank: str = "confidence"
    seed: int = 0
    edit_threshold: float = 0.9
    post_edit_steps: int = 16


@dataclass(frozen=True)
class BlockProgress:
    """Where a block stands: step ``step`` (from 0) of ``num_steps`` planned ones.

    ``num_holes`` is how many holes the block had at its start, ``num_committed`` how many of
    them are filled by now. With ``keeps_share`` a dynamic rule commits no fewer than the static
    one would, as SDAR's published loop does.
    """

    step: int
    num_steps: int
    num_holes: int
    num_committed: int
    keeps_share: bool = False

    @property
    def share(self) -> int:
        """What the static rule commits in this step: M // S, one more while step < M % S."""
        share, remainder = divmod(self.num_holes, self.num_steps)
        return share + (self.step < remainder)

    @property
    def due(self) -> int:
        """Holes filled after this step if progress is even: ceil(M * (step + 1) / S)."""
        return -(-self.num_holes * (self.step + 1) // self.num_steps)


class Sampler(Protocol):
    """A rule; knows statistics, not the model."""

    uses: ClassVar[frozenset[str]]  # names of the SamplerOptions that matter
    # The published loop runs every planned step, even when no hole is left.
    reference_runs_all_steps: ClassVar[bool]

    def __init__(self, options: SamplerOptions) -> None: ...

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """Return the rows to commit now, as indices; may be empty only in a published loop."""

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """Return [rows] values; the largest is the first to be committed when forced."""


@runtime_checkable
class EditingSampler(Sampler, Protocol):
    """A rule that may replace what stands, for denoisers that are trained to."""

    post_edit_steps: int  # that may only edit, behind the last hole

    def edits(self, rows: RowStats, tokens: NDArray[np.int32]) -> NDArray[np.intp]:
        """Return those of the rows, where ``tokens`` [rows] stand, that take another token."""


def rank_by(name: str, rows: RowStats, seed: int) -> NDArray[np.float64]:
    """Return [rows] values of a rank, the largest the surest."""
    if name == "margin":
        return rows.margin.astype(np.float64)
    if name == "entropy":
        return -rows.entropy.astype(np.float64)
    if name == "random":
        # Derived from what is still open, so that every step draws anew.
        return np.random.default_rng([seed, *rows.positions.tolist()]).random(len(rows.positions))
    return rows.confidence.astype(np.float64)


def best(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest values; of equal ones the first come first."""
    return np.argsort(-values, kind="stable")[:count]


def with_progress_floor(
    chosen: NDArray[np.intp], rank: NDArray[np.float64], progress: BlockProgress
) -> NDArray[np.intp]:
    """Add the best further rows until ceil(holes * i / steps) are committed after step i.

    A block is thereby full after its planned steps, whatever the rule finds, and every step
    commits at least one row.
    """
    missing = max(progress.due - progress.num_committed, 1) - len(chosen)
    if missing <= 0:
        return chosen
    rest = rank.copy()
    rest[chosen] = -np.inf
    return np.concatenate([chosen, best(rest, min(missing, len(rank) - len(chosen)))])

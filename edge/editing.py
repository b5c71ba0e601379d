"""What a step over a part of a block looks at: its holes, or with a rule that edits all of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.commits import Commits
from edge.plan import Part, Plan
from edge.samplers.base import EditingSampler


class Rounds:
    """The steps of one part; this kind looks at holes and never takes anything back."""

    more_steps = 0  # than the part has holes, at most

    def goes_on(self) -> bool:
        """Whether a step is due although no hole is left."""
        return False

    def asked(self, holes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Positions that a step is to look at, those of ``holes`` among them."""
        return holes

    def edit(self, rows: RowStats, holes: NDArray[np.int32]) -> RowStats:
        """Replace what stands, as the rule wants; returns the rows of the holes."""
        del holes
        return rows


class EditingRounds(Rounds):
    """Steps that may replace tokens committed before, and go on behind the last hole."""

    def __init__(self, plan: Plan, commits: Commits, sampler: EditingSampler, part: Part) -> None:
        self._canvas, self._commits, self._sampler, self._part = plan.canvas, commits, sampler, part
        self.more_steps = sampler.post_edit_steps
        self._left = sampler.post_edit_steps
        options = plan.options
        is_told = options.steps is not None or options.steps_per_block is not None
        self._most_steps = part.steps if is_told else None
        self._num_steps = 0  # so far
        self._only_edited = False  # the step before, which had no holes
        self._num_edits = 0  # of the step before

    def goes_on(self) -> bool:
        """See ``Rounds``; a step behind the last hole that edits nothing is the last."""
        due = self._left > 0 and not (self._only_edited and self._num_edits == 0)
        due = due and (self._most_steps is None or self._num_steps < self._most_steps)
        self._left -= 1
        return due

    def asked(self, holes: NDArray[np.int32]) -> NDArray[np.int32]:
        """See ``Rounds``."""
        return np.union1d(holes, self._canvas.editable(self._part.start, self._part.stop))

    def edit(self, rows: RowStats, holes: NDArray[np.int32]) -> RowStats:
        """See ``Rounds``."""
        self._num_steps += 1
        is_hole = np.isin(rows.positions, holes)
        stand = np.flatnonzero(~is_hole)
        standing = rows.take(stand, rows.positions[stand])
        chosen = self._sampler.edits(standing, self._canvas.ids[standing.positions])
        self._commits.edit(standing, chosen)
        self._num_edits, self._only_edited = len(chosen), not len(holes)
        at = np.flatnonzero(is_hole)
        return rows.take(at, rows.positions[at])


def edits(plan: Plan) -> bool:
    """Whether the request's rule may replace what stands; one with a budget has no time to."""
    return isinstance(plan.sampler, EditingSampler) and not plan.options.has_budget


def rounds_of(plan: Plan, commits: Commits, part: Part) -> Rounds:
    """The steps of a part under the request's rule."""
    sampler = plan.sampler
    if isinstance(sampler, EditingSampler) and edits(plan):
        return EditingRounds(plan, commits, sampler, part)
    return Rounds()

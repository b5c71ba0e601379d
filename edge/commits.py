"""Commits what the rule and the progress floor choose; keeps how sure each token was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.plan import Plan
from edge.samplers.base import BlockProgress, with_progress_floor

Figures = tuple[NDArray[np.float64], NDArray[np.bool_]]


class Commits:
    """The commits of one request; ``hurried`` says that the clock sets its pace.

    ``confidence`` and ``forced`` [canvas] belong to each position's latest commit: the token's
    probability, NaN for what was given, and whether the rule alone would not have made it yet.
    """

    def __init__(self, plan: Plan, eos_ids: tuple[int, ...], *, hurried: bool) -> None:
        self._plan = plan
        self._canvas = plan.canvas
        self._reference = plan.options.reference
        self._late_ids = eos_ids if plan.options.eos == "late" else ()
        self._hurried = hurried
        self.confidence = np.full(len(plan.canvas), np.nan)
        self.forced = np.zeros(len(plan.canvas), np.bool_)
        self.num_edits = 0

    def choose(self, rows: RowStats, progress: BlockProgress, *, everything: bool) -> None:
        """Commit what the rule chooses of the rows, and the floor; or all of them."""
        if not len(rows.positions):
            return
        sampler = self._plan.sampler
        ranked = self._with_late_eos(rows)
        ruled = sampler.choose(ranked, progress)
        if self._reference:
            self.give(rows, ruled)
            return
        chosen = with_progress_floor(ruled, sampler.rank(ranked), progress)
        chosen = np.arange(len(rows.positions)) if everything else chosen
        unsure = (
            self._unsure(ranked) if self._hurried else ~np.isin(range(len(rows.positions)), ruled)
        )
        self.give(rows, chosen, unsure)

    def fill(self, rows: RowStats) -> None:
        """Commit guesses that had no step of their own."""
        self.give(rows, None, rows.confidence <= self._plan.sampler_options.threshold)

    def give(
        self,
        rows: RowStats,
        chosen: NDArray[np.intp] | None = None,
        forced: NDArray[np.bool_] | None = None,
    ) -> None:
        """Commit the chosen rows (None: all); ``forced`` [rows] tells which of them are."""
        at = np.arange(len(rows.positions)) if chosen is None else chosen
        positions = rows.positions[at]
        self._canvas.commit(positions, rows.tokens[at], mask_is_a_token=self._reference)
        self.confidence[positions] = rows.confidence[at]
        self.forced[positions] = False if forced is None else forced[at]

    def edit(self, rows: RowStats, chosen: NDArray[np.intp]) -> None:
        """Put the chosen rows' tokens in place of those that stand there."""
        positions = rows.positions[chosen]
        self._canvas.edit(positions, rows.tokens[chosen], mask_is_a_token=self._reference)
        self.confidence[positions] = rows.confidence[chosen]
        self.forced[positions] = False
        self.num_edits += len(chosen)

    def figures(self) -> Figures:
        """What ``restore`` puts back."""
        return self.confidence.copy(), self.forced.copy()

    def restore(self, figures: Figures) -> None:
        """Forget the commits since then."""
        self.confidence[:], self.forced[:] = figures

    def _unsure(self, rows: RowStats) -> NDArray[np.bool_]:
        """Unsure rows that the rule would not choose had it all the time."""
        at_leisure = BlockProgress(0, len(rows.positions), len(rows.positions), 0)
        unsure: NDArray[np.bool_] = rows.confidence <= self._plan.sampler_options.threshold
        unsure[self._plan.sampler.choose(rows, at_leisure)] = False
        return unsure

    def _with_late_eos(self, rows: RowStats) -> RowStats:
        """LLaDA's second rule against early ends: an end token is the least sure of all."""
        if not self._late_ids:
            return rows
        ends = np.isin(rows.tokens, self._late_ids)
        return replace(
            rows,
            confidence=np.where(ends, np.float32(0), rows.confidence),
            margin=np.where(ends, np.float32(-1), rows.margin),
            entropy=np.where(ends, np.float32(np.inf), rows.entropy),
        )

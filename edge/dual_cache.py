"""Approximate reuse for fully bidirectional models: which rows to compute, when all of them.

There every token's keys and values move whenever any token changes, so nothing kept is exact. But
they move little, and least far away (Wu et al. 2025, "Fast-dLLM", its dual cache, reference
implementation NVlabs/Fast-dLLM; the windows are the vicinity refresh of inclusionAI/dInfer). A
forward therefore computes the block and ``window`` tokens on either side against what the last
full forward kept of the rest.

A full forward, a *refresh*, is due at the entry of a block, after commits of more than half a
block, and after a number of steps that halves when the rows had drifted at the last refresh and
doubles when they had not. This file is pure logic: it runs nothing, it only decides.
"""

from __future__ import annotations

import numpy as np

from edge.canvas import Block, RowStats

DEFAULT_WINDOW = 16
MAX_STEPS = 8  # between refreshes
MAX_DRIFT = 0.1  # mean change of the best candidates' probabilities that a refresh may bring


class DualCache:
    """What of a canvas of ``canvas_length`` tokens must be computed, forward by forward.

    ``max_steps`` 1 refreshes with every step, which is exact. ``is_on`` may be cleared at any
    time, for instance when refreshes cost more than they save: all is computed from then on.
    """

    def __init__(self, canvas_length: int, window: int, max_steps: int = MAX_STEPS) -> None:
        self._canvas_length = canvas_length
        self._window = window
        self._max_steps = max_steps
        self._interval = max_steps
        self._block: Block | None = None
        self._committed_at_refresh = 0
        self._stale: RowStats | None = None  # of the last forward, if that was an approximation
        self.is_on = True
        self.steps_since_refresh = 0
        self.num_refreshes = 0
        self.num_approximate = 0
        self._num_compared = 0
        self._num_changed = 0

    def span(self, block: Block) -> tuple[int, int]:
        """(start, stop) of what a forward computes that is no refresh."""
        start, stop = block.start - self._window, block.stop + self._window
        return max(0, start), min(self._canvas_length, stop)

    @property
    def interval(self) -> int:
        """Most steps from one refresh to the next at present."""
        return self._interval

    def is_due(self, block: Block, num_committed: int) -> bool:
        """Whether the next forward must be a refresh; ``num_committed`` counts the canvas."""
        return (
            not self.is_on
            or block != self._block
            or self.steps_since_refresh >= self._interval
            or num_committed - self._committed_at_refresh > (block.stop - block.start) // 2
            or self.span(block) == (0, self._canvas_length)
        )

    def num_active(self, block: Block, num_committed: int) -> int:
        """The cost of the next forward, in rows."""
        start, stop = self.span(block)
        return self._canvas_length if self.is_due(block, num_committed) else stop - start

    def refreshed(self, block: Block, num_committed: int, fresh: RowStats) -> None:
        """Note a completed refresh and how far it is from the step before it."""
        if self._stale is not None and block == self._block:
            self._compare(self._stale, fresh)
        self._block = block
        self._committed_at_refresh = num_committed
        self._stale = None
        self.steps_since_refresh = 1
        self.num_refreshes += 1

    def reused(self, rows: RowStats) -> None:
        """Note a completed forward that was no refresh."""
        self._stale = rows
        self.steps_since_refresh += 1
        self.num_approximate += 1

    @property
    def top1_disagreement(self) -> float | None:
        """Share of the rows whose best candidate a refresh changed; None: never compared."""
        return self._num_changed / self._num_compared if self._num_compared else None

    def _compare(self, stale: RowStats, fresh: RowStats) -> None:
        _, old, new = np.intersect1d(stale.positions, fresh.positions, return_indices=True)
        if not len(old):
            return
        self._num_compared += len(old)
        self._num_changed += int(np.count_nonzero(stale.top1[old] != fresh.top1[new]))
        drift = np.abs(stale.top1_probability[old] - fresh.top1_probability[new]).mean()
        grown = self._interval // 2 if drift > MAX_DRIFT else self._interval * 2
        self._interval = min(max(grown, 1), self._max_steps)

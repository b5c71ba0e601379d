"""Spending spare steps on the least sure tokens of a finished answer.

A token committed early was chosen with little around it, and nothing the model says later takes
it back: placed, it looks right. Masked again, with the surer rest in place, it is decided anew.
Wang et al. 2025, "Remasking discrete diffusion models with inference-time scaling" (ReMDM,
arXiv 2503.00307, its confidence rule, reference implementation kuleshov-group/remdm): the lower
the probability a token was committed with, the sooner it is remasked; here without drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.canvas import Canvas

ROUND_SHARE = 0.5  # of the tokens that were not given, in one round


@dataclass(frozen=True)
class Round:
    """Positions that are holes again, to be filled within ``num_steps`` steps."""

    positions: NDArray[np.int32]
    num_steps: int
    _canvas: Canvas
    _ids: NDArray[np.int32]

    def undo(self) -> None:
        """Put the tokens back; for a round that cannot be finished."""
        self._canvas.restore(self.positions, self._ids)


def rounds(
    canvas: Canvas,
    confidence: NDArray[np.float64],
    span: tuple[int, int],
    steps_left: Callable[[], int],
) -> Iterator[Round]:
    """Remask and yield a round at a time, until one brings nothing new or no step is left.

    ``confidence`` [canvas] holds the probability each token was committed with, NaN for what was
    given, and is read anew for each round: whoever fills the holes keeps it up to date.
    ``steps_left`` says how many further steps the plan or the clock allows. It is asked before
    each round, which never needs more of them; a number that does not shrink ends with the first
    round that changes nothing, or leads back to where an earlier one began.
    """
    seen: set[bytes] = set()
    while (limit := steps_left()) > 0:
        state = canvas.ids.tobytes() + confidence.tobytes()
        if state in seen:
            return
        seen.add(state)
        positions = least_sure(confidence, span)[:limit]
        if not len(positions):
            return
        before = canvas.ids[positions]
        canvas.remask(positions)
        yield Round(positions, len(positions), canvas, before)
        if (canvas.ids[positions] == before).all():
            return


def least_sure(confidence: NDArray[np.float64], span: tuple[int, int]) -> NDArray[np.int32]:
    """The positions a round remasks, the least sure first, of equal ones the first in the text."""
    start, stop = span
    known = np.flatnonzero(~np.isnan(confidence[start:stop])) + start
    order = known[np.argsort(confidence[known], kind="stable")]
    return order[: int(np.ceil(len(order) * ROUND_SHARE))].astype(np.int32)

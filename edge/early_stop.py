"""When the rest of a block need not be refined further: fill it from the last rows and go on.

A new rule is a class and a line in ``RULES``. One object watches one part of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.samplers.base import BlockProgress

STABLE_STEPS = 4  # that every candidate must have stayed the same
STABLE_CONFIDENCE = 0.9  # of the open positions, on average
MARGIN_AT_START, MARGIN_AT_END = 7.5, 2.5  # logits
_MAX_MARGIN = 50.0  # where only one token may be chosen, the second logit is minus infinity


class EarlyStop(Protocol):
    """Watches the open rows of a part, step by step."""

    def is_due(self, rows: RowStats, progress: BlockProgress) -> bool:
        """Whether all open rows should be committed in this step; call it once per step."""


class Stable:
    """Stop when no candidate has changed for some steps and they are fairly sure on average."""

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}
        self._num_unchanged = 0

    def is_due(self, rows: RowStats, progress: BlockProgress) -> bool:
        """See ``EarlyStop``."""
        del progress
        tokens = dict(zip(rows.positions.tolist(), rows.tokens.tolist(), strict=True))
        unchanged = all(self._tokens.get(p) == token for p, token in tokens.items())
        self._num_unchanged = self._num_unchanged + 1 if unchanged else 0
        self._tokens = tokens
        sure = bool(rows.confidence.mean() >= STABLE_CONFIDENCE)
        return sure and self._num_unchanged >= STABLE_STEPS


class Schedule:
    """Stop when the mean logit margin of the whole span reaches a threshold that falls.

    Mohamed et al. 2025, "Fast-decoding diffusion language models via progress-aware confidence
    schedules" (SchED, arXiv 2512.02892), here with a linear schedule. The margin of a committed
    position is the one it was committed with, so that no further head rows are computed;
    progress is the share of the span that is filled.
    """

    def __init__(self) -> None:
        self._margins: dict[int, float] = {}

    def is_due(self, rows: RowStats, progress: BlockProgress) -> bool:
        """See ``EarlyStop``."""
        margins = logit_margin(rows).tolist()
        self._margins |= zip(rows.positions.tolist(), margins, strict=True)
        done = progress.num_committed / progress.num_holes
        threshold = MARGIN_AT_START + (MARGIN_AT_END - MARGIN_AT_START) * done
        return sum(self._margins.values()) / len(self._margins) >= threshold


RULES: dict[str, Callable[[], EarlyStop]] = {"stable": Stable, "schedule": Schedule}


def begin(name: str) -> EarlyStop | None:
    """A rule at the start of a span, None where there is none of that name."""
    return RULES[name]() if name in RULES else None


def logit_margin(rows: RowStats) -> NDArray[np.float64]:
    """Best logit less the second, [rows]; from the probabilities where there are no logits."""
    if rows.logits is not None:
        margin = rows.logits.top1_logit.astype(np.float64) - rows.logits.top2_logit
    else:
        second = np.maximum(rows.confidence.astype(np.float64) - rows.margin, 1e-30)
        margin = np.log(np.maximum(rows.confidence, 1e-30) / second)
    return np.minimum(margin, _MAX_MARGIN)

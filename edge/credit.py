"""Credit for candidates that stay first: sure things are committed some steps sooner.

    C_t(v) = beta * C_t-1(v) + (p_t(v) ** gamma if v is the most probable token, else 0)
    logit'(v) = logit(v) + alpha * log(1 + C_t(v))

Wang et al. 2025, "CreditDecoding: accelerating parallel decoding in diffusion large language
models with trace credits" (arXiv 2510.06133); the constants are those of the credit decoder of
inclusionAI/dInfer. p_t are the model's own probabilities.

Only tokens that were most probable once have a credit, so a row keeps a few numbers, not a
vocabulary. What earlier steps left is added inside the head, in the same forward; what this step
gives, to a token whose logit is known by then, is added to the statistics afterwards.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import LogitBias
from edge.canvas import RowStats

ALPHA = 0.7
BETA = 0.8
GAMMA = 0.2

Floats = NDArray[np.float64]


class Credit:
    """The credits of one request, by position and token.

    ``bias`` before a forward and ``raised`` after it belong together; positions that a forward
    does not look at lose what they had.
    """

    def __init__(self) -> None:
        self._credits: dict[int, dict[int, float]] = {}

    def bias(self, positions: NDArray[np.int32]) -> LogitBias:
        """What the next forward adds to the rows at these positions [rows], ascending."""
        self._credits = {p: self._credits.get(p, {}) for p in positions.tolist()}
        rows = self._credits.values()
        ends = np.cumsum([0, *(len(row) for row in rows)])
        ids = [token for row in rows for token in row]
        credits = np.array([credit for row in rows for credit in row.values()], np.float64)
        return LogitBias(ends.astype(np.int32), np.array(ids, np.int32), _addition(BETA * credits))

    def raised(self, rows: RowStats) -> RowStats:
        """The rows of that forward with this step's credit, which is then kept."""
        logits = rows.logits
        assert logits is not None, "credit needs a backend that gives its logits"
        plain = logits.plain_top1_logit
        before = [
            BETA * self._credits[position].get(token, 0.0)
            for position, token in zip(
                rows.positions.tolist(), logits.plain_top1.tolist(), strict=True
            )
        ]
        decayed = np.array(before, np.float64)
        now = decayed + np.exp(plain.astype(np.float64) - logits.plain_log_z) ** GAMMA
        self._keep(rows, now)
        return _with_logit_of_top1(rows, plain + _addition(decayed), plain + _addition(now))

    def _keep(self, rows: RowStats, now: Floats) -> None:
        assert rows.logits is not None
        for position, token, credit in zip(
            rows.positions.tolist(), rows.logits.plain_top1.tolist(), now.tolist(), strict=True
        ):
            row = self._credits[position]
            self._credits[position] = {t: BETA * c for t, c in row.items()} | {token: credit}


def _addition(credits: Floats) -> NDArray[np.float32]:
    return (ALPHA * np.log1p(credits)).astype(np.float32)


def _with_logit_of_top1(
    rows: RowStats, old: NDArray[np.float32], new: NDArray[np.float32]
) -> RowStats:
    """The statistics after the plain top1's logit went up from ``old`` to ``new``."""
    logits = rows.logits
    assert logits is not None
    token, first = logits.plain_top1, logits.top1
    stays = token == first
    wins = stays | (new > logits.top1_logit) | ((new == logits.top1_logit) & (token < first))
    top1_logit = np.where(wins, new, logits.top1_logit)
    runner_up = np.where(wins, logits.top1_logit, np.maximum(logits.top2_logit, new))
    top2_logit = np.where(stays, logits.top2_logit, runner_up)
    was, is_, log_z = (x.astype(np.float64) for x in (old, new, logits.log_z))
    grown = log_z + np.log1p(np.exp(is_ - log_z) - np.exp(was - log_z))
    # Entropy is log Z less the mean logit; both sums change in one term.
    mean = np.exp(log_z - grown) * (log_z - rows.entropy)
    mean += np.exp(is_ - grown) * is_ - np.exp(was - grown) * was
    confidence = np.exp(top1_logit - grown).astype(np.float32)
    return replace(
        rows,
        tokens=np.where(wins, token, first),
        confidence=confidence,
        margin=confidence - np.exp(top2_logit - grown).astype(np.float32),
        entropy=np.maximum(grown - mean, 0.0).astype(np.float32),
        logits=replace(
            logits,
            top1=np.where(wins, token, first),
            top1_logit=top1_logit,
            top2_logit=top2_logit,
            log_z=grown.astype(np.float32),
        ),
    )

"""How soundly a rule commits: what it commits against what the reference thinks of it.

The precision of a rule is the mean probability, under the reference, of the tokens that it would
commit. A rule's parameter is recalibrated when a rounded model commits with the precision that the
reference has with its own parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
_HALVINGS = 40


def precision_above(confidence: Values, probability: Values, threshold: float) -> float | None:
    """Mean `probability` [positions] of what has more confidence than that; None for nothing."""
    sure = confidence > threshold
    return float(probability[sure].mean()) if sure.any() else None


def threshold_for(confidence: Values, probability: Values, precision: float | None) -> float | None:
    """The lowest threshold at which what is committed has that precision; None for none."""
    if precision is None:
        return None
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    means = np.cumsum(probability[order]) / np.arange(1, len(order) + 1)
    # what is committed at a threshold is a beginning of this order, equals together
    ends = np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)
    good = ends[means[ends] >= precision]
    if not len(good):
        return None
    last = good[-1]
    return float(confidence[last + 1]) if last + 1 < len(confidence) else 0.0


def precision_within(
    entropies: Sequence[Values], probabilities: Sequence[Values], bound: float
) -> float:
    """The same of the longest runs of lowest entropies whose sum without the last is within it.

    Both are per canvas [positions]; the surest position of each is always committed.
    """
    committed = [
        probability[np.argsort(entropy, kind="stable")][: _num_within(np.sort(entropy), bound)]
        for entropy, probability in zip(entropies, probabilities, strict=True)
    ]
    return float(np.concatenate(committed).mean())


def bound_for(
    entropies: Sequence[Values], probabilities: Sequence[Values], bound: float, precision: float
) -> float | None:
    """The largest entropy bound, from a hundredth of `bound` to twice it, with that precision.

    None where the smallest of them has not.
    """
    low, high = bound / 100, bound * 2
    if precision_within(entropies, probabilities, low) < precision:
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if precision_within(entropies, probabilities, middle) >= precision:
            low = middle
        else:
            high = middle
    return low


def _num_within(entropies: Values, bound: float) -> int:
    before = np.cumsum(entropies) - entropies
    return max(1, int(np.searchsorted(before, bound, side="right")))

"""Which drafted tokens are worth a row that compares them, by how sure their own rows were.

Pure logic. A token that most likely does not agree costs a row and gives nothing. (Stopping early
by the drafter's own doubt: e.g. EAGLE-2, arXiv:2406.16858; SpecDec++, arXiv:2405.19715.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

_BUCKETS = 8
_WEIGHT = 4.0  # of a row's own confidence, in comparisons
_MEMORY = 0.99  # of a comparison, once there is a newer one


class Sureness:
    """How often drafted tokens agree, by their confidence; without data, as they say."""

    def __init__(self) -> None:
        self._agreed = [0.0] * _BUCKETS
        self._compared = [0.0] * _BUCKETS

    def take(self, confidences: Sequence[float], agreed: int) -> None:
        """Of the first tokens of a draft, with these confidences, the first ``agreed`` were right
        and the next, if there is one, was not.
        """
        for i, confidence in enumerate(confidences[: agreed + 1]):
            at = _bucket(confidence)
            self._agreed[at] = self._agreed[at] * _MEMORY + (i < agreed)
            self._compared[at] = self._compared[at] * _MEMORY + 1

    def chances(self, confidences: Sequence[float]) -> list[float]:
        """That each token agrees, if all before it do."""
        pairs = ((confidence, _bucket(confidence)) for confidence in confidences)
        return [
            (self._agreed[at] + _WEIGHT * confidence) / (self._compared[at] + _WEIGHT)
            for confidence, at in pairs
        ]


def gains(chances: Sequence[float]) -> list[float]:
    """Tokens that are expected to agree of the first 0, 1, ... of them."""
    return list(accumulate(accumulate(chances, mul), initial=0.0))


def _bucket(confidence: float) -> int:
    return min(_BUCKETS - 1, max(0, int(confidence * _BUCKETS)))

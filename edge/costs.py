"""What a forward costs on one device: piecewise linear in active rows, context and head rows.

predict(rows, context, head_rows) = body(rows) + rows * context * attention + head(head_rows)

A single straight line would be badly wrong for few rows, where a step is bound by reading the
weights. Times are in ns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from edge.config import DenoiserConfig

Knots = Sequence[tuple[int, float]]  # (rows, ns), rows ascending

KNOTS = (1, 4, 8, 16, 32, 64, 128, 256)

_GUESSED_OPERATIONS_PER_NS = 20.0  # of a core; the first forward puts it right
_GUESSED_BYTES_PER_NS = 10.0
_MOST_NS = 1e13


@dataclass(frozen=True)
class Sample:
    """A forward that was timed; ``head_ns`` is part of ``total_ns``."""

    rows: int
    context: int
    head_rows: int
    total_ns: float
    head_ns: float


@dataclass(frozen=True)
class StepCosts:
    """``body`` and ``head`` are (rows, ns) in ascending rows.

    ``source`` says how far to trust them: "guess" from the model's sizes, "steps" as corrected by
    forwards of real requests, "calibration".
    """

    body: tuple[tuple[int, float], ...]
    head: tuple[tuple[int, float], ...]
    attention_ns: float  # of a row, per key of the context
    source: str

    def predict(self, rows: int, context: int, head_rows: int) -> float:
        """Return the ns of a forward."""
        return self._body(rows, context) + _at(self.head, head_rows)

    def corrected(self, samples: Sequence[Sample]) -> StepCosts:
        """These costs as real forwards put them right; a calibration stays as it is."""
        if self.source == "calibration" or not samples:
            return self
        bodies = [
            (s.rows, (s.total_ns - s.head_ns) / self._body(s.rows, s.context)) for s in samples
        ]
        overall = median(ratio for _, ratio in bodies)
        heads = [
            (s.head_rows, s.head_ns / _at(self.head, s.head_rows)) for s in samples if s.head_ns > 0
        ]
        return replace(
            self,
            body=_scaled(self.body, bodies),
            head=_scaled(self.head, heads or [(1, overall)]),
            attention_ns=self.attention_ns * overall,
            source="steps",
        )

    def _body(self, rows: int, context: int) -> float:
        # Beyond the last knot every further row also has every further row to look at.
        beyond = max(0, rows - self.body[-1][0])
        return _at(self.body, rows) + rows * (context + beyond) * self.attention_ns

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` reads."""
        return {
            "body": [list(knot) for knot in self.body],
            "head": [list(knot) for knot in self.head],
            "attention_ns": self.attention_ns,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, fields: Any) -> StepCosts:
        """Raises ValueError for anything that ``to_json`` does not write."""
        try:
            attention_ns, source = fields["attention_ns"], fields["source"]
            costs = cls(_knots(fields["body"]), _knots(fields["head"]), attention_ns, source)
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(f"no step costs: {error!r}") from None
        if source not in ("steps", "calibration") or not _is_time(attention_ns, low=0.0):
            raise ValueError(f"impossible step costs: {source!r}, {attention_ns!r}")
        return costs


def guess(config: DenoiserConfig, threads: int) -> StepCosts:
    """Costs from the sizes alone, of the right shape but any scale."""
    width = config.num_heads * config.head_dim
    head = config.hidden_size * config.vocab_size

    def ns(computed: int, read: float, rows: int) -> float:
        """By the parameters that each row meets, and those that are read for all of them."""
        computed_ns = 2 * computed * rows / (_GUESSED_OPERATIONS_PER_NS * threads)
        return max(read / _GUESSED_BYTES_PER_NS, computed_ns)

    def body_ns(rows: int) -> float:
        own = ns(config.linear_weights, config.touched_weights(rows), rows)
        return own + rows * rows * attention

    attention = 4 * config.num_layers * width / (_GUESSED_OPERATIONS_PER_NS * threads)
    return StepCosts(
        body=tuple((rows, body_ns(rows)) for rows in KNOTS),
        head=tuple((rows, ns(head, head, rows)) for rows in KNOTS),
        attention_ns=attention,
        source="guess",
    )


def _scaled(knots: Knots, ratios: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Scale each knot by the median ratio seen nearest to it."""
    seen: dict[int, list[float]] = {}
    for rows, ratio in ratios:
        seen.setdefault(_nearest(rows, (knot for knot, _ in knots)), []).append(ratio)
    return rising((rows, ns * median(seen[_nearest(rows, seen)])) for rows, ns in knots)


def _nearest(rows: int, candidates: Iterable[int]) -> int:
    return min(candidates, key=lambda candidate: abs(candidate - rows))


def rising(knots: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """The knots, none below the one before: more rows are never cheaper, noise aside."""
    risen: list[tuple[int, float]] = []
    for rows, ns in knots:
        risen.append((rows, max(ns, risen[-1][1] if risen else 1.0)))
    return tuple(risen)


def _at(knots: Knots, rows: int) -> float:
    """The value at ``rows`` on the line through the knots, which goes on beyond the last."""
    if rows <= 0:
        return 0.0
    if rows <= knots[0][0] or len(knots) == 1:
        return knots[0][1] * (rows / knots[0][0] if len(knots) == 1 else 1.0)
    above = next((i for i, (at, _) in enumerate(knots) if at >= rows), len(knots) - 1)
    (left, low), (right, high) = knots[above - 1 : above + 1]
    return low + (high - low) * (rows - left) / (right - left)


def _knots(values: Any) -> tuple[tuple[int, float], ...]:
    knots = tuple((rows, ns) for rows, ns in values)
    ascending = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(knots))
    whole = all(type(rows) is int and rows > 0 and _is_time(ns) for rows, ns in knots)
    if not knots or not whole or not ascending:
        raise ValueError("the knots do not rise, or hold what is no time")
    return knots


def _is_time(value: object, low: float = 1.0) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and low <= value <= _MOST_NS  # type: ignore[operator]

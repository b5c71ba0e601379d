"""How a latency budget is spent: pure decisions on predicted times; the clock is given.

Times are in ns. A request is a row of stretches, each of which one forward can reach: a block,
or under full attention the whole answer. Every stretch needs one denoising step and, but for the
last, a forward that stores it; that is its mandatory work. What time is left is shared out in
denoising steps. Prior art: mandatory and optional parts of imprecise computation (Liu et al. 1991);
smoothing and margin as TCP estimates round trips (Jacobson 1988).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

CAUTION = 2.0  # deviations kept in hand
MORE_CAUTION = 3.0  # where optional work could cost what was promised, or nothing can be stopped
MOST_RESERVE = 0.05  # share of a budget that may be set aside for what its end might take
SPIKE = 3.0  # times the mean: probably another program, not this device
WORST_GRAIN = 5.0  # times the mean: a spike of what cannot be interrupted, on a throttled device
HALF_LIFE_NS = 60e9  # a device that rested is not as hot as it was

_USUAL_DEVIATION = 0.15
_SLOWEST, _FASTEST = 5.0, 0.3


@dataclass
class Smoothed:
    """Mean and mean deviation of what was seen, the latest counting a quarter."""

    mean: float
    deviation: float
    _last_was_spike: bool = False

    def add(self, value: float) -> None:
        """Take a value; a single spike only widens the deviation."""
        spike = value > SPIKE * self.mean
        if spike and not self._last_was_spike:
            value = SPIKE * self.mean
        else:
            self.mean += (value - self.mean) / 4
        self.deviation += (abs(value - self.mean) - self.deviation) / 4
        self._last_was_spike = spike

    @property
    def upper(self) -> float:
        """What is rarely exceeded."""
        return self.mean + CAUTION * self.deviation


@dataclass(frozen=True)
class Work:
    """Predicted forwards: how many, their sum, and the sum of their squares."""

    forwards: int = 0
    total_ns: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, times_ns: Iterable[float]) -> Work:
        """The work of forwards that take so long each; those of 0 do not happen."""
        real = [time for time in times_ns if time > 0]
        return cls(len(real), sum(real), sum(time * time for time in real))

    def __add__(self, other: Work) -> Work:
        return Work(
            self.forwards + other.forwards,
            self.total_ns + other.total_ns,
            self.squares + other.squares,
        )


@dataclass
class Pace:
    """How this device runs at present; kept from request to request.

    ``rate`` is measured over predicted time of a forward (its mean is u, its deviation v),
    ``between_ns`` what a step takes beside its forward, ``tail_ns`` what comes after the last
    one, ``lateness_ns`` how long after its deadline a late forward returned, once there was one;
    at least the worst of ``grain_ns``, the predicted time between two chances to stop it.
    """

    rate: Smoothed = field(default_factory=lambda: Smoothed(1.0, _USUAL_DEVIATION))
    between_ns: Smoothed = field(default_factory=lambda: Smoothed(2e5, 1e5))
    tail_ns: Smoothed = field(default_factory=lambda: Smoothed(3e5, 1e5))
    lateness_ns: Smoothed | None = None
    grain_ns: float = 0.0
    caution: float = CAUTION
    guessed: bool = False  # predictions have no scale before the first measurement
    measured: bool = False
    seen_ns: int | None = None

    @property
    def trusted(self) -> bool:
        """Whether predictions mean anything."""
        return self.measured or not self.guessed

    @property
    def u(self) -> float:
        """Measured over predicted time."""
        return self.rate.mean if self.guessed else min(max(self.rate.mean, _FASTEST), _SLOWEST)

    @property
    def v(self) -> float:
        """Mean deviation of that."""
        return self.rate.deviation

    def observe(self, measured_ns: float, predicted_ns: float) -> None:
        """Take the time of a forward; the first one corrects a mere guess at once."""
        ratio = measured_ns / max(predicted_ns, 1.0)
        if self.trusted:
            self.rate.add(ratio)
        else:
            self.rate = Smoothed(ratio, _USUAL_DEVIATION * ratio)
        self.measured = True

    def was_late(self, late_ns: float) -> None:
        """A forward returned so long after its deadline."""
        if self.lateness_ns is None:
            self.lateness_ns = Smoothed(late_ns, late_ns / 2)
        else:
            self.lateness_ns.add(late_ns)

    def rest_until(self, now_ns: int) -> None:
        """Forget towards the profile while nothing runs."""
        if self.seen_ns is not None and not self.guessed:
            kept = 0.5 ** (max(0, now_ns - self.seen_ns) / HALF_LIFE_NS)
            self.rate.mean = 1 + (self.rate.mean - 1) * kept
        self.seen_ns = now_ns

    def bound(self, work: Work, caution: float | None = None) -> float:
        """What the work rarely exceeds; ``caution`` may ask for more than the usual one."""
        deviation = self.v * math.sqrt(work.squares)
        deviation += self.between_ns.deviation * math.sqrt(work.forwards)
        return self.expected(work) + max(self.caution, caution or 0.0) * deviation

    def expected(self, work: Work) -> float:
        """What the work takes on average."""
        return self.u * work.total_ns + work.forwards * self.between_ns.mean

    def affordable(self, step_ns: float, time_ns: float, caution: float | None = None) -> int:
        """The most steps of that predicted time whose bound fits into ``time_ns``."""
        each = self.u * step_ns + self.between_ns.mean
        spread = max(self.caution, caution or 0.0) * (self.v * step_ns + self.between_ns.deviation)
        if time_ns <= 0 or each <= 0:
            return 0
        root = (math.sqrt(spread * spread + 4 * each * time_ns) - spread) / (2 * each)
        return int(root * root)

    @property
    def doubt_ns(self) -> float:
        """What the end of a request rarely takes beyond its usual ``tail_ns.mean``."""
        late = 0.0 if self.lateness_ns is None else self.lateness_ns.upper
        tail_ns = self.tail_ns.upper - self.tail_ns.mean
        return tail_ns + max(late, WORST_GRAIN * self.u * self.grain_ns)

    def reserve_ns(self, budget_ns: float) -> float:
        """What is set aside of a budget for its end: doubt may not take much of it."""
        return self.tail_ns.mean + min(self.doubt_ns, MOST_RESERVE * max(budget_ns, 0.0))

    def least_budget(self, needed_ns: float) -> float:
        """The smallest budget that leaves ``needed_ns`` beside its reserve."""
        certain = needed_ns + self.tail_ns.mean
        return min(certain + self.doubt_ns, certain / (1 - MOST_RESERVE))


@dataclass(frozen=True)
class Stretch:
    """What one forward can reach.

    ``store_ns`` is what has to follow before the next stretch begins; ``needs`` are the most
    steps that each of its parts can use.
    """

    step_ns: float
    store_ns: float
    needs: Sequence[int]


def water_level(total: int, needs: Sequence[int]) -> int:
    """The largest share s with sum(min(s, need)) <= total."""
    level, rest = 0, total
    for count, need in zip(range(len(needs), 0, -1), sorted(needs), strict=True):
        if (need - level) * count > rest:
            return level + rest // count
        rest -= (need - level) * count
        level = need
    return level


class Controller:
    """Keeps one deadline. ``begun`` says that the present stretch has had a step."""

    def __init__(
        self, clock: Callable[[], int], started_ns: int, budget_ns: float, pace: Pace
    ) -> None:
        self._clock = clock
        self.pace = pace
        self.deadline_ns = started_ns + budget_ns
        # What is computed has to be done by then.
        self.limit_ns = self.deadline_ns - pace.reserve_ns(budget_ns)

    @property
    def left_ns(self) -> float:
        """Time for forwards."""
        return self.limit_ns - self._clock()

    def fits(self, work: Work, caution: float | None = None) -> bool:
        """Whether the work can be promised."""
        return self.pace.bound(work, caution) <= self.left_ns

    def kept(self, stretches: Sequence[Stretch], *, begun: bool) -> int:
        """How many of the stretches after the first can be promised their mandatory work."""
        work = Work() if begun else Work.of([stretches[0].step_ns])
        kept = 0
        for before, after in pairwise(stretches):
            work += Work.of([before.store_ns, after.step_ns])
            if not self.fits(work):
                break
            kept += 1
        return kept

    def may_step(self, stretches: Sequence[Stretch]) -> bool:
        """Whether an optional step fits before the mandatory work that can be promised."""
        promised = stretches[: self.kept(stretches, begun=True) + 1]
        caution = MORE_CAUTION if len(promised) > 1 else None
        return self.fits(Work.of([stretches[0].step_ns]) + mandatory_after(promised), caution)

    def steps_left(self, stretches: Sequence[Stretch], used: int, need: int) -> int:
        """Steps that the present part may still take, of ``need`` it can use, after ``used``.

        The share counts the steps it has had: shared out anew without them, the present part
        would keep a constant share and starve the last one.
        """
        promised = stretches[: self.kept(stretches, begun=True) + 1]
        caution = MORE_CAUTION if len(promised) > 1 else None
        stores = Work.of(stretch.store_ns for stretch in promised[:-1])
        step_ns = sum(stretch.step_ns for stretch in promised) / len(promised)
        time_ns = self.left_ns - self.pace.bound(stores, caution)
        total = self.pace.affordable(step_ns, time_ns, caution)
        later = [*promised[0].needs[1:], *(n for s in promised[1:] for n in s.needs)]
        level = water_level(total + used, [used + need, *later])
        return max(0, min(level - used, need))

    def spare_steps(self, stretches: Sequence[Stretch]) -> int:
        """Steps of the first stretch that leave the others as many as they can use."""
        later = Work.of(stretch.store_ns for stretch in stretches[:-1])
        later += Work.of(s.step_ns for s in stretches[1:] for _ in range(sum(s.needs)))
        caution = MORE_CAUTION if len(stretches) > 1 else None
        time_ns = self.left_ns - self.pace.bound(later, caution)
        return self.pace.affordable(stretches[0].step_ns, time_ns, caution)


def mandatory_after(stretches: Sequence[Stretch]) -> Work:
    """What the stretches after the first cannot do without."""
    stores = (stretch.store_ns for stretch in stretches[:-1])
    return Work.of([*stores, *(stretch.step_ns for stretch in stretches[1:])])

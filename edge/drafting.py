"""How far to draft: whatever should give the most verified tokens in a given time.

Pure logic. Drafted tokens that agree with what the model itself says next are kept, up to the first
that does not. A forward that verifies may prepare for several outcomes, with a branch of mask
tokens each; where it has prepared for the one that comes, the next forward verifies again,
otherwise a forward goes by that only drafts. Prior art: the choice of a draft's length by expected
tokens per time, Leviathan et al. (arXiv:2211.17192); speculation that adapts while it runs, e.g.
SpecDec++ (arXiv:2405.19715).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

from edge.budget import Smoothed
from edge.draft_checks import Sureness, gains

MOST_BRANCHES = 4
LONGEST = 31  # of drafts whose length is chosen

# (plain rows, rows of mask tokens) -> time of a forward; any unit.
Price = Callable[[int, int], float]

_FIRST_GUESS = 0.6  # that a drafted token agrees, before any was compared
_FIRST_HOPE = 0.95  # the same where a draft that is not compared cannot be put right
_GUESS_WEIGHT = 2.0  # in comparisons
_MEMORY = 0.98  # of a comparison, once there is a newer one
_USUAL_DEVIATION = 0.15
_PROBES = ((0, 0), (1, 2), (2, 2), (4, 1))  # shapes whose times should be known
_BONUS_HOPED = 1.1  # of drafting over what rates by place alone say
_HOPE_RETURNS = 0.02  # of the way to that, per choice not to draft
_CHOICE_LASTS = 8  # forwards, since making it takes a share of one
_PROBE_LASTS = 3  # forwards
_PROBE_EVERY = 256
_PROBES_MAY_COST = 0.02  # of all time
_PROBES_START_WITH = 4.0  # forwards of one plain row


@dataclass(frozen=True)
class Reach:
    """Tokens to draft at a time, and outcomes that a verifying forward prepares for."""

    length: int = 0
    num_branches: int = 0


class Acceptance:
    """How often drafted tokens agree, by how many of the same draft stand before them."""

    def __init__(self, longest: int) -> None:
        self._agreed = [0.0] * longest
        self._compared = [0.0] * longest

    def take(self, compared: int, agreed: int) -> None:
        """Of a draft's first ``compared`` tokens the first ``agreed`` were right."""
        for i in range(min(compared, agreed + 1, len(self._compared))):
            self._agreed[i] = self._agreed[i] * _MEMORY + (i < agreed)
            self._compared[i] = self._compared[i] * _MEMORY + 1

    def rates(self, length: int, first_guess: float = _FIRST_GUESS) -> list[float]:
        """Of each token of a draft, if those before agree; without data as the one before."""
        rates, before = [], first_guess
        for i in range(length):
            if i < len(self._compared):
                weight = self._compared[i] + _GUESS_WEIGHT
                before = (self._agreed[i] + _GUESS_WEIGHT * before) / weight
            rates.append(before)
        return rates


def outcomes(rates: Sequence[float]) -> list[float]:
    """How likely exactly 0, 1, ... all of the tokens of such rates agree."""
    found, all_so_far = [], 1.0
    for rate in rates:
        found.append(all_so_far * (1 - rate))
        all_so_far *= rate
    return [*found, all_so_far]


def likeliest(rates: Sequence[float], count: int) -> list[int]:
    """The ``count`` likeliest numbers of agreeing tokens, ascending."""
    chances = outcomes(rates)
    ranked = sorted(range(len(chances)), key=lambda agreed: -chances[agreed])
    return sorted(ranked[:count])


def tokens_per_time(
    reach: Reach, rates: Sequence[float], price: Price, masked_rows: Callable[[int], int]
) -> float:
    """In the long run.

    A forward that verifies gives 1 + E tokens; with probability P it has prepared for the outcome,
    else one follows that gives a token and drafts.
    """
    of_branches = _by_branches(reach.length, rates, price, masked_rows)
    return next(islice(of_branches, reach.num_branches, None))


def _by_branches(
    length: int, rates: Sequence[float], price: Price, masked_rows: Callable[[int], int]
) -> Iterator[float]:
    """The same for 0, 1, ... branches."""
    if length == 0:
        yield 1 / price(1, 0)
        return
    chances = outcomes(rates[:length])
    gained = sum(i * chance for i, chance in enumerate(chances))
    rows, prepared = masked_rows(length), 0.0
    drafts = price(1, rows)
    for num, chance in enumerate([0.0, *sorted(chances, reverse=True)[:MOST_BRANCHES]]):
        prepared += chance
        verifies = price(1 + length, num * rows)
        yield (2 - prepared + gained) / ((1 - prepared) * drafts + verifies)


def best(
    lengths: Iterable[int],
    rates: Sequence[float],
    price: Price,
    masked_rows: Callable[[int], int],
    bonus: float = 1.0,
) -> Reach:
    """The reach with the most tokens per time; of equal ones the shortest.

    Drafting gives ``bonus`` times what its rates say.
    """
    found = (
        (value * bonus if length else value, -length, -branches)
        for length in lengths
        for branches, value in enumerate(_by_branches(length, rates, price, masked_rows))
    )
    _, length, branches = max(found)
    return Reach(-length, -branches)


class Drafting:
    """What a model has learned of its drafts, for all its requests.

    A draft has at most ``longest`` tokens; ``masked_rows`` says how many rows it takes.
    """

    def __init__(self, longest: int, masked_rows: Callable[[int], int]) -> None:
        longest = min(longest, LONGEST)
        self.acceptance = Acceptance(longest)
        self.sureness = Sureness()
        self._longest = longest
        self._masked_rows = masked_rows
        self._factors: dict[int, Smoothed] = {}  # measured over predicted time, by rows
        self._seen: dict[int, int] = {}  # when each of them was last measured, in forwards
        self._rows: list[int] = []  # those of them, ascending
        self._forwards = 0
        self._choice: Reach | None = None
        self._rate = 0.0  # tokens per time that it gives
        self._known: dict[tuple[int, int], float] = {}
        self._is_free = True
        self._bonus = _BONUS_HOPED
        self._drafted = self._drafted_time = 0.0  # tokens and time since the choice was made
        self._choice_ends = 0
        self._hoped: float | None = None
        self._hoped_ends = 0
        self._total = self._excess = 0.0  # time of all forwards, and what probes lost of it
        self._probe: Reach | None = None
        self._probe_left = 0

    def price(self, predicted: Price) -> Price:
        """The predictions, as measurements put them right; each is made once in a few forwards."""
        known = self._known

        def price(plain: int, masked: int) -> float:
            if (plain, masked) not in known:
                known[plain, masked] = predicted(plain, masked) * self._factor(plain + masked)
            return known[plain, masked]

        return price

    def reach(self, predicted: Price, fixed: int | None = None) -> Reach:
        """How far to draft now; ``fixed`` is a given length."""
        if self._choice is None or self._forwards >= self._choice_ends:
            self._known = {}  # others may be using the last
            self._learn_bonus()
            price = self.price(predicted)
            self._choice = self._best(range(self._longest + 1), price)
            self._rate = self._rate_of(self._choice, price)
            self._choice_ends = self._forwards + min(_CHOICE_LASTS, 1 + self._forwards // 4)
        self._is_free = fixed is None
        if fixed is not None:
            return self._best([fixed], self.price(predicted))
        return self._probed(self._choice, self.price(predicted))

    def to_compare(
        self, confidences: Sequence[float], reach: Reach, predicted: Price
    ) -> tuple[int, list[int]]:
        """How many of the drafted tokens the next forward compares, and for which numbers of
        agreeing ones it prepares.

        A row is worth what it gives beyond what its time would give elsewhere, and so is being
        prepared, which saves a forward that only drafts.
        """
        count = min(len(confidences), reach.length)
        if not self._is_free or self._probe is not None:
            return count, likeliest(self.acceptance.rates(count), reach.num_branches)
        price, rows = self.price(predicted), self._masked_rows(reach.length)
        chances = self.sureness.chances(confidences)
        prepared_is_worth = max(0.0, self._rate * price(1, rows) - 1)
        found = []
        for compared, gain in enumerate(gains(chances)):
            ranked = sorted(outcomes(chances[:compared]), reverse=True)
            prepared = accumulate(ranked[:MOST_BRANCHES] if rows else [], initial=0.0)
            for branches, chance in enumerate(prepared):
                spent = self._rate * price(1 + compared, branches * rows)
                found.append((gain - spent + chance * prepared_is_worth, -compared, -branches))
        _, compared, branches = max(found)
        return -compared, likeliest(chances[:-compared], -branches)

    def _rate_of(self, reach: Reach, price: Price) -> float:
        rates = self.acceptance.rates(reach.length)
        rate = tokens_per_time(reach, rates, price, self._masked_rows)
        return rate * self._bonus if reach.length else rate

    def _best(self, lengths: Sequence[int], price: Price) -> Reach:
        rates = self.acceptance.rates(max(lengths))
        return best(lengths, rates, price, self._masked_rows, self._bonus)

    def _learn_bonus(self) -> None:
        """What the last choice gave beyond its expectation, since rows go to sure tokens only."""
        if self._drafted_time > 0 and self._choice is not None and self._choice.length:
            found = self._drafted / self._drafted_time / self._rate * self._bonus
            self._bonus += (found - self._bonus) / 4
        else:
            self._bonus += (_BONUS_HOPED - self._bonus) * _HOPE_RETURNS
        self._drafted = self._drafted_time = 0.0

    def hoped(self, price: Price) -> float:
        """Tokens per time, at best while little is known of the drafts."""
        if self._hoped is None or self._forwards >= self._hoped_ends:
            rates = self.acceptance.rates(self._longest, _FIRST_HOPE)
            reach = best(range(self._longest + 1), rates, price, self._masked_rows)
            self._hoped = tokens_per_time(reach, rates, price, self._masked_rows)
            self._hoped_ends = self._forwards + 4
        return self._hoped

    def compared(self, confidences: Sequence[float], agreed: int) -> None:
        """Of a draft's first tokens, with these confidences, the first ``agreed`` were right."""
        self.acceptance.take(len(confidences), agreed)
        self.sureness.take(confidences, agreed)

    def took(self, plain: int, masked: int, tokens: int, measured: float, predicted: Price) -> None:
        """A forward of such rows gave so many tokens in so much time."""
        rows, ratio = plain + masked, measured / max(1.0, predicted(plain, masked))
        if rows in self._factors:
            self._factors[rows].add(ratio)
        else:
            self._factors[rows] = Smoothed(ratio, _USUAL_DEVIATION * ratio)
            insort(self._rows, rows)
        self._forwards += 1
        self._seen[rows] = self._forwards
        self._total += measured
        if self._probe is None and self._is_free:
            self._drafted += tokens
            self._drafted_time += measured
        if self._probe is not None:
            lost = measured - tokens * self.price(predicted)(1, 0)
            self._excess = max(0.0, self._excess + lost)

    def _probed(self, chosen: Reach, price: Price) -> Reach:
        """The choice, or a shape whose time is not known well enough."""
        self._probe_left -= 1
        if self._probe_left > 0 and self._probe is not None:
            return self._probe
        allowed = _PROBES_MAY_COST * self._total + _PROBES_START_WITH * price(1, 0)
        cheap = (
            each for each in self._shapes() if self._excess + self._loss(each, price) <= allowed
        )
        self._probe = next(filter(self._is_stale, cheap), None)
        self._probe_left = _PROBE_LASTS
        return self._probe or chosen

    def _shapes(self) -> list[Reach]:
        return [Reach(length, num) for length, num in _PROBES if length <= self._longest]

    def _loss(self, reach: Reach, price: Price) -> float:
        """What trying a shape is expected to lose, since some of it will agree."""
        masked = reach.num_branches * self._masked_rows(reach.length)
        return _PROBE_LASTS / 2 * (price(1 + reach.length, masked) - price(1, 0))

    def _is_stale(self, reach: Reach) -> bool:
        rows = 1 + reach.length + reach.num_branches * self._masked_rows(reach.length)
        return self._forwards - self._seen.get(rows, -_PROBE_EVERY) >= _PROBE_EVERY

    def _factor(self, rows: int) -> float:
        """On the line through what was measured; beyond its ends as there."""
        if rows in self._factors or not self._factors:
            return self._factors[rows].mean if self._factors else 1.0
        known = self._rows
        at = bisect_left(known, rows)
        if at in (0, len(known)):
            return self._factors[known[max(0, at - 1)]].mean
        low, high = known[at - 1], known[at]
        share = (rows - low) / (high - low)
        return (1 - share) * self._factors[low].mean + share * self._factors[high].mean

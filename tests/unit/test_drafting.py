"""How far to draft, on devices and drafters that the test makes up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.draft_checks import Sureness, gains
from edge.drafting import (
    MOST_BRANCHES,
    Acceptance,
    Drafting,
    Price,
    Reach,
    best,
    likeliest,
    outcomes,
    tokens_per_time,
)

rates = st.lists(st.floats(0, 1), min_size=1, max_size=7)


def shifted(length: int) -> int:
    return length


def flat(_plain: int, _masked: int) -> float:
    """Reading the weights takes all the time."""
    return 1.0


def linear(plain: int, masked: int) -> float:
    """Every row costs the same."""
    return float(plain + masked)


def bent(plain: int, masked: int) -> float:
    """Four rows cost as much as one."""
    return max(4.0, plain + masked)


@given(rates)
def test_outcomes_are_all_there_is(values: list[float]) -> None:
    chances = outcomes(values)
    assert len(chances) == len(values) + 1
    assert all(0 <= chance <= 1 for chance in chances)
    assert sum(chances) == pytest.approx(1)


@given(rates, st.integers(1, 8))
def test_the_likeliest_outcomes(values: list[float], count: int) -> None:
    chosen, chances = likeliest(values, count), outcomes(values)
    rest = [chances[i] for i in range(len(chances)) if i not in chosen]
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, len(chances))
    assert min(chances[i] for i in chosen) >= max(rest, default=0)


def simulated(
    reach: Reach, agreement: Sequence[float], price: Price, forwards: int = 4000, seed: int = 0
) -> float:
    """Tokens per time of that many forwards of the loop."""
    random = np.random.default_rng(seed)
    granted = set(likeliest(agreement[: reach.length], reach.num_branches))
    tokens, spent, drafted = 0, 0.0, False
    for _ in range(forwards):
        if not drafted or reach.length == 0:
            spent += price(1, reach.length)
            tokens, drafted = tokens + 1, True
            continue
        right = random.random(reach.length) < agreement[: reach.length]
        agreed = reach.length if right.all() else int(right.argmin())
        spent += price(1 + reach.length, reach.length * reach.num_branches)
        tokens, drafted = tokens + 1 + agreed, agreed in granted
    return tokens / spent


@pytest.mark.parametrize("price", [flat, linear, bent])
@pytest.mark.parametrize("reach", [Reach(0, 0), Reach(1, 0), Reach(1, 2), Reach(3, 1), Reach(5, 4)])
def test_expected_tokens_are_those_of_the_loop(reach: Reach, price: Price) -> None:
    agreement = [0.7, 0.5, 0.6, 0.4, 0.3]
    wanted = simulated(reach, agreement, price)
    assert tokens_per_time(reach, agreement, price, shifted) == pytest.approx(wanted, rel=0.04)


def test_what_is_chosen() -> None:
    def choice(price: Price, *values: float) -> Reach:
        return best(range(len(values) + 1), values, price, shifted)

    assert choice(linear, 0.9, 0.9, 0.9) == Reach(0, 0)  # a row costs what it brings at most
    assert choice(flat, 0.0, 0.0, 0.0) == Reach(0, 0)
    assert choice(flat, 0.9, 0.9, 0.9) == Reach(3, 4)
    assert choice(bent, 0.66, 0.3, 0.2) == Reach(1, 2)
    assert choice(flat, 1.0, 0.0, 0.0).length == 1


def test_rates_follow_what_happens() -> None:
    acceptance = Acceptance(4)
    assert acceptance.rates(4) == pytest.approx([0.6] * 4)
    for _ in range(200):
        acceptance.take(3, 1)
    first, second, third, fourth = acceptance.rates(4)
    assert first > 0.95
    assert second < 0.05
    assert third == fourth == second  # nobody got so far
    assert len(acceptance.rates(9)) == 9
    acceptance.take(9, 9)


def sloped(plain: int, masked: int) -> float:
    return 1 + 0.2 * (plain + masked - 1)


def told(informed: bool, tokens: int = 3000) -> float:
    """Time per token where half of all drafted tokens are nearly always right, half never, and
    their confidences say which, or nothing.
    """
    random, drafting = np.random.default_rng(0), Drafting(7, shifted)
    given, spent, ahead = 0, 0.0, np.empty(0)
    while given < tokens:
        reach = drafting.reach(sloped)
        sure = [float(x) if informed else 0.5 for x in ahead]
        count, granted = drafting.to_compare(sure, reach, sloped) if sure else (0, [0])
        granted = granted if count else [0]
        right = random.random(len(ahead)) < ahead
        agreed, known = 0, min(count + 1, len(ahead))
        while agreed < known and right[agreed]:
            agreed += 1
        if sure:
            drafting.compared(sure[:known], agreed)
        left = ahead[count + 1 :] if agreed > count else ahead[:0]
        agreed = min(agreed, count)
        masked = len(granted) * reach.length
        drafting.took(1 + count, masked, agreed + 1, sloped(1 + count, masked), sloped)
        given, spent = given + agreed + 1, spent + sloped(1 + count, masked)
        fresh = np.where(random.random(reach.length) < 0.5, 0.95, 0.01)
        ahead = fresh if agreed in granted else left
    return spent / given


def test_rows_go_to_tokens_that_are_sure() -> None:
    assert told(informed=True) < 0.95 * told(informed=False) < 1


def test_chances_are_what_happened_to_such_confidences() -> None:
    sureness = Sureness()
    assert sureness.chances([0.0, 0.3, 1.0]) == pytest.approx([0.0, 0.3, 1.0])
    for _ in range(300):
        sureness.take([0.9, 0.1, 0.9], 1)
    high, low = sureness.chances([0.9, 0.1])
    assert high > 0.95
    assert low < 0.05
    assert gains([0.5, 0.5]) == pytest.approx([0, 0.5, 0.75])
    assert gains([]) == [0]


def run(
    agreement: Callable[[np.random.Generator], bool],
    price: Price,
    predicted: Price,
    tokens: int,
    noise: float = 0.0,
    longest: int = 7,
    said: float = 0.5,
) -> float:
    """Time per token of the adaptive loop, in forwards of one row."""
    random = np.random.default_rng(0)
    drafting = Drafting(longest, shifted)
    given, spent, drafted, granted = 0, 0.0, 0, [0]
    while given < tokens:
        reach = drafting.reach(predicted)
        sure = [said] * drafted
        verified, granted = drafting.to_compare(sure, reach, predicted) if sure else (0, [0])
        granted = granted if verified else [0]
        plain, masked = 1 + verified, len(granted) * reach.length
        agreed, known = 0, min(verified + 1, drafted)
        while agreed < known and agreement(random):
            agreed += 1
        time = price(plain, masked) * float(np.exp(noise * random.normal()))
        if drafted:
            drafting.compared(sure[:known], agreed)
        left = drafted - verified - 1 if agreed > verified else 0
        agreed = min(agreed, verified)
        drafting.took(plain, masked, agreed + 1, time, predicted)
        given, spent = given + agreed + 1, spent + time
        drafted = reach.length if agreed in granted else max(0, left)
    return spent / given / price(1, 0)


PRICES = {"flat": flat, "linear": linear, "bent": bent}


@pytest.mark.parametrize("predicted", PRICES)
@pytest.mark.parametrize("price", PRICES)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_bad_drafts_cost_next_to_nothing(price: str, predicted: str, noise: float) -> None:
    spent = run(lambda _: False, PRICES[price], PRICES[predicted], 1000, noise)
    assert spent < (1.06 if noise else 1.045)


@pytest.mark.parametrize("predicted", PRICES)
@pytest.mark.parametrize(("price", "bound"), [("flat", 0.35), ("bent", 0.66), ("linear", 1.045)])
def test_good_drafts_pay_whatever_was_predicted(price: str, bound: float, predicted: str) -> None:
    assert run(lambda r: r.random() < 0.9, PRICES[price], PRICES[predicted], 2000) < bound


def test_a_given_length_is_kept() -> None:
    drafting = Drafting(7, shifted)
    for _ in range(50):
        drafting.compared([0.5] * 7, 0)
        reach = drafting.reach(linear, fixed=7)
        assert reach.length == 7
        assert reach.num_branches <= MOST_BRANCHES

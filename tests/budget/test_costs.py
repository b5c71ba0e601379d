"""The cost model: knots, lines between them, corrections, what a file may hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.costs import KNOTS, Sample, StepCosts, guess, rising

COSTS = StepCosts(
    body=((1, 1000.0), (8, 1100.0), (32, 3000.0)),
    head=((1, 100.0), (8, 200.0)),
    attention_ns=0.5,
    source="steps",
)


@pytest.mark.parametrize(
    ("rows", "context", "head_rows", "expected"),
    [
        (1, 0, 0, 1000),
        (8, 0, 0, 1100),
        (20, 0, 0, 2050),
        (32, 100, 0, 3000 + 32 * 100 * 0.5),
        (8, 0, 1, 1200),
        (8, 0, 8, 1300),
        (8, 0, 15, 1400),  # the last line goes on
        (56, 0, 0, 3000 + 24 * 1900 / 24 + 56 * 24 * 0.5),  # so do rows, which see each other
    ],
)
def test_lines_through_the_knots(rows: int, context: int, head_rows: int, expected: float) -> None:
    assert COSTS.predict(rows, context, head_rows) == pytest.approx(expected)


@given(rows=st.integers(1, 4000), context=st.integers(0, 4000), head_rows=st.integers(0, 4000))
def test_more_work_is_never_cheaper(rows: int, context: int, head_rows: int) -> None:
    least = COSTS.predict(rows, context, head_rows)
    assert least >= 1000
    assert COSTS.predict(rows + 1, context, head_rows) >= least
    assert COSTS.predict(rows, context + 1, head_rows) >= least
    assert COSTS.predict(rows, context, head_rows + 1) >= least


def test_a_guess_has_the_shape_of_the_model(timed_config: Callable[..., Any]) -> None:
    costs = guess(timed_config().denoiser, threads=2)
    assert [rows for rows, _ in costs.body] == list(KNOTS)
    assert costs.body == rising(costs.body)
    assert costs.source == "guess"
    few, many = costs.predict(1, 0, 1), costs.predict(256, 0, 256)
    assert 10 < many / few < 256  # a plateau at first, then in proportion


def sample(rows: int, factor: float, head_rows: int = 0, head_ns: float = 0.0) -> Sample:
    body = COSTS.predict(rows, 0, 0) * factor
    return Sample(rows, 0, head_rows, body + head_ns, head_ns)


def test_real_forwards_correct_the_knots_they_are_near_to() -> None:
    fixed = COSTS.corrected([sample(32, 3), sample(32, 3), sample(32, 9), sample(7, 2)])
    assert fixed.predict(32, 0, 0) == pytest.approx(9000)
    assert fixed.predict(8, 0, 0) == pytest.approx(2200)
    assert fixed.predict(1, 0, 0) == pytest.approx(2000)  # as the nearest that was seen
    assert fixed.source == "steps"


def test_the_head_is_corrected_by_itself() -> None:
    fixed = COSTS.corrected([sample(32, 1, head_rows=8, head_ns=1000.0)])
    assert fixed.predict(32, 0, 8) == pytest.approx(4000)


def test_a_calibration_stays() -> None:
    calibrated = StepCosts(COSTS.body, COSTS.head, 0.0, "calibration")
    assert calibrated.corrected([sample(32, 3)]) is calibrated
    assert COSTS.corrected([]) is COSTS


def test_survives_json() -> None:
    assert StepCosts.from_json(json.loads(json.dumps(COSTS.to_json()))) == COSTS


@pytest.mark.parametrize(
    "changes",
    [
        {"body": []},
        {"body": [[1, 5.0], [1, 6.0]]},
        {"body": [[8, 5.0], [1, 6.0]]},
        {"body": [[1, 6.0], [8, 5.0]]},
        {"body": [[0, 5.0]]},
        {"body": [[1.5, 5.0]]},
        {"body": [[True, 5.0]]},
        {"body": [[1, float("nan")]]},
        {"body": [[1, float("inf")]]},
        {"body": [[1, "5"]]},
        {"body": [[1, 1e300]]},
        {"body": [1, 2]},
        {"body": {"1": 5.0}},
        {"body": None},
        {"head": [[1, -5.0]]},
        {"attention_ns": -1.0},
        {"attention_ns": None},
        {"attention_ns": float("nan")},
        {"source": "guess"},
        {"source": ["steps"]},
    ],
)
def test_what_is_no_profile_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"step costs|the knots|unpack|values"):
        StepCosts.from_json({**COSTS.to_json(), **changes})


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists))
def test_any_other_json_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"step costs|knots|unpack|values"):
        StepCosts.from_json(value)
    with pytest.raises(ValueError, match=r"step costs|knots|unpack|values"):
        StepCosts.from_json({**COSTS.to_json(), "body": value})

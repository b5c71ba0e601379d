"""Choosing: how choices are scored, in what order holes are decided, what a budget leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edge
from edge import Hole, profile
from edge.errors import BudgetError, RequestError
from edge.result import Commit, Draft

MASK = 245
CHOICES = ["no", "yes", "ye", "z", "ab", "maybe"]

some = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "folder", lambda: tmp_path / "profiles")


@pytest.fixture(scope="module", params=["llada", "dream", "fast_dllm_v2", "sdar"])
def any_model(
    request: pytest.FixtureRequest, text_model: Callable[[str], Path]
) -> Iterator[edge.Model]:
    with edge.load(text_model(request.param), threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def model(text_model: Callable[[str], Path]) -> Iterator[edge.Model]:
    with edge.load(text_model("llada"), threads=1) as loaded:
        yield loaded


def tokens_of(model: edge.Model, text: str) -> list[int]:
    assert model.tokenizer is not None
    return model.tokenizer.encode(text).tolist()


def log_softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = row.astype(np.float64)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide - wide.max()).sum()) - wide.max()
    return result


def score(model: edge.Model, before: list[int], choice: list[int], after: list[int]) -> float:
    """The formula, from whole rows of logits."""
    shift = int(model.config.diffusion.shift_logits)
    terms = []
    for done in range(len(choice)):
        canvas = [*before, *choice[:done], *[MASK] * (len(choice) - done), *after]
        row = max(0, len(before) + done - shift)
        terms.append(log_softmax(model.logits(canvas, len(before))[row])[choice[done]])
    return float(np.mean(terms))


def test_scores_are_the_formula_s(any_model: edge.Model) -> None:
    length = any_model.config.diffusion.block_length
    before = "q" * (length if any_model.config.diffusion.attention == "block" else 5)
    choices = [c for c in CHOICES if len(tokens_of(any_model, c)) < 4]
    result = any_model.fill([before, Hole(6), "."], choices=choices)
    scores = result.holes[0].scores
    assert scores is not None
    assert list(scores) == choices
    for choice in choices:
        parts = (tokens_of(any_model, text) for text in (before, choice, "."))
        assert scores[choice] == pytest.approx(score(any_model, *parts), abs=1e-4)
    assert result.holes[0].text == max(choices, key=lambda choice: scores[choice])
    assert result.holes[0].ids == tokens_of(any_model, result.holes[0].text)


@some
@given(
    choices=st.lists(
        st.text("abcxyz é", min_size=1, max_size=3), min_size=1, max_size=5, unique=True
    ),
    texts=st.lists(st.text("abé\n", max_size=3), min_size=2, max_size=4),
)
def test_every_hole_becomes_a_choice_and_text_stays(
    model: edge.Model, choices: list[str], texts: list[str]
) -> None:
    pieces: list[Any] = [texts[0]]
    for text in texts[1:]:
        pieces += [Hole(6), text]
    drafts: list[Draft] = []
    commits: list[str] = []
    for event in model.stream_fill(pieces, choices=choices, on_step=drafts.append):
        if isinstance(event, Commit):
            commits.append(event.text or "")
    result = model.fill(pieces, choices=choices)
    assert "".join(commits) == result.text
    holes = iter(result.holes)
    assert result.text == "".join(p if isinstance(p, str) else next(holes).text for p in pieces)
    assert all(hole.text in choices for hole in result.holes)
    assert len(drafts) == result.stats.steps == len(result.holes)
    assert drafts[-1].committed.all()


def test_choices_of_a_token_each_take_a_forward_per_hole(model: edge.Model) -> None:
    choices = list("abcdefgh")
    assert model.fill(["x", Hole(1), "y"], choices=choices).stats.nfe == 1
    three = model.fill([Hole(1), "x", Hole(2), "y", Hole(3)], choices=choices)
    assert (three.stats.nfe, three.stats.steps) == (3, 3)


def test_choices_share_the_forwards_of_their_beginning(model: edge.Model) -> None:
    # Two of two tokens: one forward for both, one each after their first tokens, or one for both.
    assert model.fill([Hole(2)], choices=["xy", "zy"]).stats.nfe == 3
    assert model.fill([Hole(2)], choices=["xy", "xz"]).stats.nfe == 2
    assert model.fill([Hole(2)], choices=["xy", "z"]).stats.nfe == 3


def test_the_surest_hole_is_decided_first_and_seen_by_the_others(model: edge.Model) -> None:
    pieces = ["ab", Hole(1), "cd", Hole(1), "."]
    choices = ["x", "y"]
    drafts: list[Draft] = []
    result = model.fill(pieces, choices=choices, on_step=drafts.append)
    open_ids = [1, MASK, *tokens_of(model, "cd"), MASK, *tokens_of(model, ".")]
    open_ids[0] = tokens_of(model, "ab")[0]
    places = [1, 4]
    leads = []
    for place in places:
        row = log_softmax(model.logits(open_ids)[place])
        x, y = (row[tokens_of(model, choice)[0]] for choice in choices)
        leads.append(abs(x - y))
    first = int(np.argmax(leads))
    assert drafts[0].committed[places[first]]
    assert not drafts[0].committed[places[1 - first]]
    ids = open_ids.copy()
    ids[places[first]] = result.holes[first].ids[0]
    row = log_softmax(model.logits(ids)[places[1 - first]])
    scores = result.holes[1 - first].scores
    assert scores is not None
    assert scores["x"] == pytest.approx(row[tokens_of(model, "x")[0]], abs=1e-4)


def test_of_equal_scores_the_first_choice_wins(
    model: edge.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = type(model._engine)

    def same(*args: Any, **_: Any) -> NDArray[np.float64]:
        return np.full(len(args[3]), -1.0)

    monkeypatch.setattr(engine, "log_probabilities", lambda _, *args, **more: same(*args, **more))
    result = model.fill([Hole(3), "-", Hole(3)], choices=["b", "abc", "a"])
    assert result.text == "b-b"


def test_a_text_far_below_all_others_is_no_error(sudoku: edge.Model) -> None:
    solved = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
    scores = sudoku.fill([Hole(1), solved[1:]], choices=list("123456789")).holes[0].scores
    assert scores is not None
    assert max(scores, key=lambda choice: scores[choice]) == "5"
    assert all(-130 < value <= 0 for value in scores.values())


@pytest.fixture(scope="module")
def sudoku() -> Iterator[edge.Model]:
    with edge.load() as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ([], "0 choices are given"),
        ("ab", "no list of texts"),
        ([1], "no list of texts"),
        (["a", "a"], "'a' is given twice"),
        (["a", ""], "'' is nothing that this model can write"),
        (["😀"], "nothing that this model can write"),
        (["a\ud800"], "lone surrogate"),
        (["xyz"], "'xyz' has 3 tokens, a hole at most 2"),
    ],
)
def test_choices_that_no_hole_can_take(model: edge.Model, choices: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        model.fill([Hole(2), Hole(7)], choices=choices)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 3},
        {"temperature": 1.0},
        {"sampler": "factor"},
        {"eos": "forbid"},
        {"max_tokens": 3},
        {"on_tight": "coarse"},
        {"guidance": 1.0},
        {"cache": "dual"},
        {"block_length": 4},
    ],
)
def test_options_that_choosing_has_no_use_for(model: edge.Model, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(options))} has no effect"):
        model.fill([Hole(1)], choices=["a"], **options)


class TestBudget:
    PIECES = ("It is", Hole(6), " and", Hole(6), ".")

    def test_a_loose_one_changes_nothing(self, any_model: edge.Model) -> None:
        pieces = ["q" * 8, Hole(3)]
        free = any_model.fill(pieces, choices=CHOICES[:3])
        result = any_model.fill(pieces, choices=CHOICES[:3], budget_ms=1e6)
        assert (result.text, result.status) == (free.text, "complete")
        assert result.stats.budget_ms == 1e6
        assert result.stats.overshoot_ms is not None
        assert result.stats.overshoot_ms < 0
        assert result.stats.nfe == free.stats.nfe

    def test_too_short_a_one_still_decides_everything(self, model: edge.Model) -> None:
        result = model.fill(self.PIECES, choices=CHOICES, budget_ms=1e-3)
        assert (result.status, result.complete) == ("deadline_infeasible", True)
        assert all(hole.text in CHOICES for hole in result.holes)
        assert result.stats.min_budget_ms is not None
        assert result.stats.min_budget_ms > 1e-3

    def test_a_deadline_in_the_middle_fills(
        self, model: edge.Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The least answer, four lengths in two holes, is there; then a forward is stopped."""
        engine, count = type(model._engine), 0
        real = engine.log_probabilities

        def stopped(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            return None if options["deadline_ns"] and count > 8 else real(*args, **options)

        monkeypatch.setattr(engine, "log_probabilities", stopped)
        result = model.fill(self.PIECES, choices=CHOICES, budget_ms=1e6)
        assert (result.status, result.complete) == ("filled", True)
        assert all(hole.text in CHOICES for hole in result.holes)
        assert all(
            np.isfinite(list(hole.scores.values())).all() for hole in result.holes if hole.scores
        )

    def test_an_error_if_that_is_wanted(self, model: edge.Model) -> None:
        with pytest.raises(BudgetError) as caught:
            model.fill(self.PIECES, choices=CHOICES, budget_ms=1e-3, on_infeasible="error")
        assert caught.value.min_budget_ms >= 1

    def test_cancelled_before_anything_is_decided(self, model: edge.Model) -> None:
        cancel = edge.CancelFlag()
        cancel.set()
        result = model.fill(self.PIECES, choices=CHOICES, cancel=cancel)
        assert (result.status, result.complete) == ("cancelled", False)
        assert result.text == "It is and."
        assert [hole.text for hole in result.holes] == ["", ""]

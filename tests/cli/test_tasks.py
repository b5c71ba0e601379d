"""The rules of Sudoku, checked against puzzles that the test itself makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RequestError, UnsupportedModelError
from edge.tasks import TASKS, find
from edge.tasks.sudoku import Sudoku

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
TASK = Sudoku()

cells_of = st.integers(0, 80)


@st.composite
def solutions(draw: st.DrawFn) -> str:
    """Permute the digits, the rows within bands and the columns within stacks of a solution."""
    digits = draw(st.permutations("123456789"))
    rows = [3 * band + row for band in draw(st.permutations(range(3))) for row in (2, 0, 1)]
    columns = [3 * s + c for s in draw(st.permutations(range(3))) for c in (1, 0, 2)]
    grid = (SOLUTION[9 * row + column] for row in rows for column in columns)
    return "".join(digits[int(cell) - 1] for cell in grid)


@given(solutions(), st.sets(cells_of))
def test_a_solution_of_its_own_puzzle_is_verified(solution: str, holes: set[int]) -> None:
    puzzle = "".join("." if i in holes else cell for i, cell in enumerate(solution))
    assert TASK.check_prompt(puzzle) == puzzle
    assert TASK.verify(puzzle, solution)


@given(solutions(), cells_of, st.sampled_from("123456789.0x\u0661"))
def test_one_wrong_cell_is_not_solved(solution: str, cell: int, other: str) -> None:
    answer = solution[:cell] + other + solution[cell + 1 :]
    assert TASK.verify("." * 81, answer) == (answer == solution)


def test_a_solution_that_changes_a_given_is_not_solved() -> None:
    swapped = SOLUTION.translate(str.maketrans("12", "21"))
    assert TASK.verify("." * 81, swapped)
    assert not TASK.verify(PUZZLE, swapped)


@pytest.mark.parametrize("answer", ["", SOLUTION[:80], SOLUTION + "1", PUZZLE, "1" * 81])
def test_what_is_no_full_grid_is_not_solved(answer: str) -> None:
    assert not TASK.verify(PUZZLE, answer)


def test_rows_and_columns_alone_do_not_solve() -> None:
    latin = "".join("123456789"[(row + column) % 9] for row in range(9) for column in range(9))
    assert not TASK.verify("." * 81, latin)


@given(solutions(), st.sets(cells_of))
def test_a_drawn_puzzle_can_be_read_again(solution: str, holes: set[int]) -> None:
    puzzle = "".join("." if i in holes else cell for i, cell in enumerate(solution))
    drawn = TASK.draw(puzzle)
    assert {len(line) for line in drawn.splitlines()} == {25}
    assert TASK.check_prompt(drawn) == puzzle


def test_zeros_and_white_space_are_tolerated() -> None:
    rows = "\r\n".join(PUZZLE[i : i + 9] for i in range(0, 81, 9))
    assert TASK.check_prompt(f"\t{rows.replace('.', '0')} \n") == PUZZLE


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("", "'' has 0 cells, not 81"),
        (PUZZLE[:-1], "has 80 cells, not 81"),
        (PUZZLE + ".", "has 82 cells, not 81"),
        ("solve this", "'solve this' is no Sudoku: character 1 is 's'"),
        ("5_" + PUZZLE[2:], "character 2 is '_'"),
        ("\u0665" + PUZZLE[1:], "character 1 is '\u0665'"),
        ("\udcff" + PUZZLE[1:], "character 1 is '\\udcff'"),
        ("55" + PUZZLE[2:], "row 1 holds 5 twice"),
        (PUZZLE[:9] + "5" + PUZZLE[10:], "column 1 holds 5 twice"),
        (PUZZLE[:10] + "5" + PUZZLE[11:], "box 1 holds 5 twice"),
        ("." * 80 + "x", "character 81"),
    ],
)
def test_what_is_no_puzzle_is_refused(prompt: str, complaint: str) -> None:
    with pytest.raises(RequestError) as caught:
        TASK.check_prompt(prompt)
    assert complaint in caught.value.what
    assert caught.value.hint
    assert len(caught.value.what) < 120


@given(st.text(max_size=120))
def test_any_text_is_a_puzzle_or_a_request_error(text: str) -> None:
    try:
        cells = TASK.check_prompt(text)
    except RequestError:
        return
    assert len(cells) == 81


def test_only_81_cells_can_be_drawn() -> None:
    with pytest.raises(ValueError, match="80"):
        TASK.draw("." * 80)


def test_tasks_are_found_by_name() -> None:
    assert find(None) is None
    assert find("sudoku") is TASKS["sudoku"]
    with pytest.raises(UnsupportedModelError, match=r"'chess'.*known: sudoku"):
        find("chess")

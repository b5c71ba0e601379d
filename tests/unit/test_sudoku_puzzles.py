"""The puzzle generator of the Sudoku bench, against a slow solver and a slow grader of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import example_programs
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "bench" / "sudoku_puzzles.py"


bench = example_programs.load("bench/sudoku_puzzles.py")

DIGITS = set("123456789")
UNITS = [
    *([9 * row + column for column in range(9)] for row in range(9)),
    *([9 * row + column for row in range(9)] for column in range(9)),
    *(
        [9 * (top + row) + left + column for row in range(3) for column in range(3)]
        for top in (0, 3, 6)
        for left in (0, 3, 6)
    ),
]
PEERS = [{p for unit in UNITS if cell in unit for p in unit} - {cell} for cell in range(81)]

# Row r is 123456789 turned left by 3 r + r // 3.
SOLVED = "".join("123456789123456789"[3 * r % 9 + r // 3 :][:9] for r in range(9))
# The same 1, 4 and 7 in the three boxes on top: any of the 12 Latin squares of order 3 fits.
LATIN_HOLES = [9 * row + column for row in range(3) for column in (0, 3, 6)]
WITHOUT_LATIN_SQUARE = "".join("." if c in LATIN_HOLES else SOLVED[c] for c in range(81))

WIKIPEDIA = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
WIKIPEDIA_SOLVED = (
    "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
)
NO_NAKED_SINGLE = (
    "..7....2.3..6..8.....149...2.39.6............791.8...2...8....4.5....18...92..6.."
)
INKALA = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."

FIRST_EASY_OF_SEED_0 = (
    ".15..2.7.....7.4..3..4...19..9.37...1...2.6.725......3..4..1...5.834976..61.58..4"
)


def _open_digits(grid: str, cell: int) -> list[str]:
    seen = {grid[peer] for peer in PEERS[cell]}
    return [digit for digit in "123456789" if digit not in seen]


def _brute_force(grid: str) -> Iterator[str]:
    """Every solution of ``grid``, trying all digits in the cell with the fewest."""
    holes = [(_open_digits(grid, cell), cell) for cell in range(81) if grid[cell] == "."]
    if not holes:
        yield grid
        return
    digits, cell = min(holes, key=lambda hole: len(hole[0]))
    for digit in digits:
        yield from _brute_force(grid[:cell] + digit + grid[cell + 1 :])


def _next_single(grid: str, hidden: bool) -> tuple[int, str] | None:
    choices = {cell: _open_digits(grid, cell) for cell in range(81) if grid[cell] == "."}
    for cell, digits in choices.items():
        if len(digits) == 1:
            return cell, digits[0]
    for unit in UNITS if hidden else ():
        for digit in "123456789":
            places = [cell for cell in unit if digit in choices.get(cell, ())]
            if len(places) == 1:
                return places[0], digit
    return None


def _solved_by_singles(grid: str, hidden: bool) -> bool:
    while (single := _next_single(grid, hidden)) is not None:
        cell, digit = single
        grid = grid[:cell] + digit + grid[cell + 1 :]
    return "." not in grid


def _grade_by_hand(givens: str) -> str:
    if _solved_by_singles(givens, hidden=False):
        return "easy"
    return "medium" if _solved_by_singles(givens, hidden=True) else "hard"


@pytest.fixture(scope="module")
def sample() -> list[Any]:
    return list(islice(bench.puzzles(7), 60))


@pytest.mark.slow
def test_a_puzzle_has_its_solution_and_no_other(sample: list[Any]) -> None:
    for puzzle in sample:
        assert list(_brute_force(puzzle.givens)) == [puzzle.solution]


def test_the_givens_are_part_of_the_solution(sample: list[Any]) -> None:
    for puzzle in sample:
        pairs = list(zip(puzzle.givens, puzzle.solution, strict=True))
        assert len(pairs) == 81
        assert all(given in (".", digit) for given, digit in pairs)
        assert puzzle.num_givens == sum(given != "." for given, _ in pairs)


def test_the_solution_holds_every_digit_once_per_unit(sample: list[Any]) -> None:
    for puzzle in sample:
        assert all({puzzle.solution[cell] for cell in unit} == DIGITS for unit in UNITS)


def test_a_puzzle_below_its_target_loses_uniqueness_with_any_further_cell(
    sample: list[Any],
) -> None:
    fewest = min(sample, key=lambda puzzle: puzzle.num_givens)
    assert 20 < fewest.num_givens < 27
    for cell in range(81):
        if fewest.givens[cell] != ".":
            assert bench.solve_count(fewest.givens[:cell] + "." + fewest.givens[cell + 1 :]) == 2


def test_grades_agree_with_a_grader_that_places_one_single_at_a_time(sample: list[Any]) -> None:
    assert {puzzle.grade for puzzle in sample} == set(bench.GRADES)
    for puzzle in sample:
        assert puzzle.grade == _grade_by_hand(puzzle.givens)


@pytest.mark.parametrize(
    ("givens", "grade"),
    [
        pytest.param("." + SOLVED[1:], "easy", id="one hole"),
        pytest.param(WIKIPEDIA, "easy", id="naked singles all the way"),
        pytest.param(NO_NAKED_SINGLE, "medium", id="no cell is forced at the start"),
        pytest.param(INKALA, "hard", id="said to be the hardest of 2012"),
    ],
)
def test_grade(givens: str, grade: str) -> None:
    assert bench.grade(givens) == grade


def test_solve_known_puzzle() -> None:
    assert bench.solve(WIKIPEDIA) == WIKIPEDIA_SOLVED
    assert bench.solve(WIKIPEDIA.replace(".", "0")) == WIKIPEDIA_SOLVED


@pytest.mark.slow
def test_solve_needs_guesses_for_the_hardest() -> None:
    assert bench.solve(INKALA) == next(_brute_force(INKALA))


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (2, 2), (5, 5), (100, 12)])
def test_solve_count_stops_at_the_limit(limit: int, count: int) -> None:
    assert bench.solve_count(WITHOUT_LATIN_SQUARE, limit) == count


def test_the_default_limit_tells_one_from_several() -> None:
    assert bench.solve_count(WIKIPEDIA) == 1
    assert bench.solve_count(WITHOUT_LATIN_SQUARE) == 2


@pytest.mark.parametrize(
    "grid",
    [
        pytest.param("11" + "." * 79, id="twice in a row"),
        pytest.param("1" + "." * 26 + "1" + "." * 53, id="twice in a column"),
        pytest.param("12345678." + "........9" + "." * 63, id="no digit left for a cell"),
    ],
)
def test_contradictions_have_no_solution(grid: str) -> None:
    assert bench.solve_count(grid) == 0
    assert bench.solve(grid) is None


@pytest.mark.parametrize("grid", ["", "1" * 80, SOLVED + "1", "x" + SOLVED[1:], "\u0661" * 81])
def test_what_is_no_grid_is_refused(grid: str) -> None:
    with pytest.raises(ValueError, match="81 digits and dots"):
        bench.solve(grid)


def test_a_seed_always_gives_the_same_puzzles(sample: list[Any]) -> None:
    assert list(islice(bench.puzzles(7), 5)) == sample[:5]
    assert next(bench.puzzles(8)) != sample[0]


def test_the_first_easy_puzzle_of_seed_0_is_the_published_one() -> None:
    first = next(puzzle for puzzle in bench.puzzles(0) if puzzle.grade == "easy")
    assert first.givens == FIRST_EASY_OF_SEED_0


def test_targets_spread_over_the_whole_range() -> None:
    counts = [puzzle.num_givens for puzzle in islice(bench.puzzles(0), 150)]
    assert max(counts) == bench.MOST_GIVENS
    assert min(counts) >= bench.FEWEST_GIVENS
    assert 32 < sum(counts) / len(counts) < 35


def test_command_line_prints_grid_grade_and_givens() -> None:
    command = [sys.executable, str(SCRIPT), "--count", "3", "--grade", "easy"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) == 3
    assert lines[0] == [FIRST_EASY_OF_SEED_0, "easy", "34"]
    assert all(grade == "easy" for _, grade, _ in lines)


@pytest.mark.parametrize("grade", ["easy", "medium", "hard"])
def test_command_line_filters_by_grade(grade: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--count", "2", "--seed", "5", "--grade", grade, "--json"])
    answer = json.loads(capsys.readouterr().out)
    wanted = islice((p for p in bench.puzzles(5) if p.grade == grade), 2)
    assert answer["schema"] == 1
    assert answer["puzzles"] == [
        {
            "givens": puzzle.givens,
            "solution": puzzle.solution,
            "grade": grade,
            "num_givens": puzzle.num_givens,
        }
        for puzzle in wanted
    ]


def test_command_line_filters_by_givens(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--count", "3", "--givens", "30-35"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert all(30 <= int(num_givens) <= 35 for _, _, num_givens in lines)


@pytest.mark.parametrize(
    ("num_givens", "band"), [(36, "36+"), (35, "30-35"), (30, "30-35"), (24, "24-29"), (23, None)]
)
def test_band(num_givens: int, band: str | None) -> None:
    givens = SOLVED[:num_givens] + "." * (81 - num_givens)
    assert bench.Puzzle(givens, SOLVED, "easy").band == band


def test_command_line_refuses_a_count_below_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        bench.main(["--count", "0"])
    assert exit_info.value.code == 2
    assert "--count must be at least 1; got 0" in capsys.readouterr().err

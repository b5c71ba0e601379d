"""Sudoku puzzles with exactly one solution, graded, and the solver that proves it.

    python examples/bench/sudoku_puzzles.py --count 5 --seed 0 --grade easy

A puzzle is a random full grid from which cells are taken out in random order, as long as one
solution remains, until a number of givens drawn uniformly from 20..46 is left or no cell can go.
Few grids have a puzzle of 20 givens, so the low targets end at puzzles that lose their uniqueness
with any further cell, mostly of 22 to 26 givens.

The same seed gives the same puzzles on every Python: only ``random.Random.random()`` is used, the
one stream the standard library promises to keep.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from random import Random
from typing import NamedTuple

GRADES = ("easy", "medium", "hard")
BANDS = {"36+": range(36, 82), "30-35": range(30, 36), "24-29": range(24, 30)}  # of givens
FEWEST_GIVENS, MOST_GIVENS = 20, 46


@dataclass(frozen=True)
class Puzzle:
    """``givens`` and ``solution`` are 81 characters, row by row; a hole is a dot.

    ``grade`` is ``easy`` if naked singles suffice (a cell that can hold one digit only),
    ``medium`` if hidden singles are needed as well (a digit with one place left in its row,
    column or box), ``hard`` if both together do not finish it.
    """

    givens: str
    solution: str
    grade: str

    @property
    def num_givens(self) -> int:
        return 81 - self.givens.count(".")

    @property
    def band(self) -> str | None:
        """The name of the band of givens; None for fewer than 24."""
        return next((name for name, band in BANDS.items() if self.num_givens in band), None)


def puzzles(seed: int) -> Iterator[Puzzle]:
    """An endless stream of puzzles, the same for the same seed."""
    random = Random(seed)
    while True:
        solution = _random_grid(random)
        target = FEWEST_GIVENS + _below(random, MOST_GIVENS - FEWEST_GIVENS + 1)
        givens = _to_text(_take_out(random, solution, target))
        yield Puzzle(givens, _to_text(solution), grade(givens))


def solve(grid: str) -> str | None:
    """A solution of ``grid``, None if there is none; ValueError if it is no grid."""
    found = next(_solutions(_board(_candidates(grid))), None)
    return None if found is None else _to_text(_each(found))


def solve_count(grid: str, limit: int = 2) -> int:
    """Number of solutions of ``grid``, counted up to ``limit``; ValueError if it is no grid."""
    return sum(1 for _ in islice(_solutions(_board(_candidates(grid))), limit))


def grade(givens: str) -> str:
    """The grade of a puzzle that has one solution."""
    board = _board(_candidates(givens))
    for name, constraints in (("easy", CONSTRAINTS[:1]), ("medium", CONSTRAINTS)):
        settled = _propagate(board, constraints)
        if settled is not None and settled.open.bit_count() == 81:
            return name
    return "hard"


# The solver. A grid is one integer of 729 bits: bit 81 * (digit - 1) + cell is set while the digit
# is a candidate of the cell. "Every cell holds one digit" and "every row, column and box holds
# every digit once" are then the same statement about four families of nine bits, each family a
# start position and nine distances from it, and one pass of shifts looks at 81 constraints at once.


class Constraint(NamedTuple):
    starts: int  # bits where the 81 families start
    shifts: tuple[int, ...]  # distances of the nine candidates of a family from its start


class Board(NamedTuple):
    open: int  # candidates still possible
    placed: int  # those whose consequences have been drawn


def _bits(positions: Iterable[int]) -> int:
    return sum(1 << position for position in positions)


def _each(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _constraint(start_cells: Iterable[int], cell_shifts: Iterable[int]) -> Constraint:
    starts = _bits(81 * digit + cell for cell in start_cells for digit in range(9))
    return Constraint(starts, tuple(cell_shifts))


CONSTRAINTS = (
    Constraint(_bits(range(81)), tuple(range(0, 729, 81))),  # cells
    _constraint(range(0, 81, 9), range(9)),  # rows
    _constraint(range(9), range(0, 81, 9)),  # columns
    _constraint((0, 3, 6, 27, 30, 33, 54, 57, 60), (0, 1, 2, 9, 10, 11, 18, 19, 20)),  # boxes
)


def _kept_beside() -> tuple[int, ...]:
    """For each candidate, what stays possible once it is placed."""
    kept = [ALL_OPEN] * 729
    for starts, shifts in CONSTRAINTS:
        for start in _each(starts):
            family = _bits(start + shift for shift in shifts)
            for shift in shifts:
                kept[start + shift] &= ~family | 1 << start + shift
    return tuple(kept)


ALL_OPEN = (1 << 729) - 1
KEPT_BESIDE = _kept_beside()


def _board(candidates: Iterable[int]) -> Board:
    is_open, placed = ALL_OPEN, 0
    for candidate in candidates:
        is_open &= KEPT_BESIDE[candidate]
        placed |= 1 << candidate
    return Board(is_open, placed)


def _propagate(board: Board, constraints: Sequence[Constraint]) -> Board | None:
    """Place what the constraints force until nothing more follows; None at a contradiction."""
    is_open, placed = board
    while True:
        before = placed
        for starts, shifts in constraints:
            once = twice = 0
            for shift in shifts:
                shifted = is_open >> shift
                twice |= once & shifted
                once |= shifted
            if once & starts != starts:
                return None
            single = starts & ~twice
            forced = 0
            for shift in shifts:
                forced |= single << shift
            for candidate in _each(forced & is_open & ~placed):
                is_open &= KEPT_BESIDE[candidate]
                placed |= 1 << candidate
        if placed == before:
            return Board(is_open, placed)


def _solutions(board: Board, random: Random | None = None) -> Iterator[int]:
    """The candidates of each solution, 81 bits; branches in random order if ``random`` is given."""
    settled = _propagate(board, CONSTRAINTS)
    if settled is None:
        return
    if settled.open.bit_count() == 81:
        yield settled.open
        return
    branches = _branches(settled.open)
    for candidate in _shuffled(random, branches) if random else branches:
        is_open = settled.open & KEPT_BESIDE[candidate]
        yield from _solutions(Board(is_open, settled.placed | 1 << candidate), random)


def _branches(is_open: int) -> list[int]:
    """The candidates of an undecided cell, of one with two candidates if there is any."""
    starts, shifts = CONSTRAINTS[0]
    once = twice = thrice = 0
    for shift in shifts:
        shifted = is_open >> shift
        thrice |= twice & shifted
        twice |= once & shifted
        once |= shifted
    undecided = (twice & ~thrice & starts) or (twice & starts)
    cell = (undecided & -undecided).bit_length() - 1
    return [cell + shift for shift in shifts if is_open >> cell + shift & 1]


# The generator.


def _random_grid(random: Random) -> list[int]:
    """The 81 candidates of a random full grid, in the order of the cells (not quite uniform)."""
    first_row = [81 * digit + cell for cell, digit in enumerate(_shuffled(random, range(9)))]
    return _by_cell(_each(next(_solutions(_board(first_row), random))))


def _take_out(random: Random, solution: Sequence[int], target: int) -> list[int]:
    """What is left of ``solution`` after removals that keep it the only one."""
    left = set(solution)
    for candidate in _shuffled(random, solution):
        if len(left) == target:
            break
        rest = _board(left - {candidate})
        # A second solution would hold another digit here.
        if next(_solutions(rest._replace(open=rest.open & ~(1 << candidate))), None) is None:
            left.remove(candidate)
    return _by_cell(left)


def _below(random: Random, bound: int) -> int:
    return int(random.random() * bound)


def _shuffled(random: Random, values: Iterable[int]) -> list[int]:
    shuffled = list(values)
    for last in range(len(shuffled) - 1, 0, -1):
        other = _below(random, last + 1)
        shuffled[last], shuffled[other] = shuffled[other], shuffled[last]
    return shuffled


# Candidates and text.


def _by_cell(candidates: Iterable[int]) -> list[int]:
    return sorted(candidates, key=lambda candidate: candidate % 81)


def _to_text(candidates: Iterable[int]) -> str:
    cells = ["."] * 81
    for candidate in candidates:
        digit, cell = divmod(candidate, 81)
        cells[cell] = str(digit + 1)
    return "".join(cells)


def _candidates(grid: str) -> list[int]:
    if len(grid) != 81 or not set(grid) <= set(".0123456789"):
        raise ValueError(f"a grid is 81 digits and dots, row by row; got {grid!r}")
    return [81 * (int(digit) - 1) + cell for cell, digit in enumerate(grid) if digit not in ".0"]


# The command line.


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Print Sudoku puzzles that have one solution.")
    parser.add_argument("--count", type=int, default=5, help="number of puzzles (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the random stream (default 0)")
    parser.add_argument("--grade", choices=GRADES, help="only puzzles of this grade")
    parser.add_argument("--givens", choices=BANDS, help="only puzzles with so many givens")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="one JSON object, with the solutions")
    forms.add_argument(
        "--pairs", action="store_true", help="puzzle, tab, solution: as edge-convert compare wants"
    )
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error(f"--count must be at least 1; got {arguments.count}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Print one puzzle per line: the grid, its grade, its number of givens."""
    arguments = _arguments(argv)
    of_grade = (p for p in puzzles(arguments.seed) if arguments.grade in (None, p.grade))
    wanted = (p for p in of_grade if arguments.givens in (None, p.band))
    chosen = islice(wanted, arguments.count)
    if arguments.json:
        rows = [asdict(puzzle) | {"num_givens": puzzle.num_givens} for puzzle in chosen]
        print(json.dumps({"schema": 1, "seed": arguments.seed, "puzzles": rows}, indent=2))
        return
    for puzzle in chosen:
        about = f"{puzzle.givens}  {puzzle.grade:<6}  {puzzle.num_givens}"
        print(f"{puzzle.givens}\t{puzzle.solution}" if arguments.pairs else about)


if __name__ == "__main__":
    main()

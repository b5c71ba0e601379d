"""Sudoku: nine rows, nine columns and nine boxes, each holding the digits 1 to 9 once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge.errors import RequestError

DIGITS = "123456789"
HOLE = "."
NUM_CELLS = 81

_HOLES = ".0"
_DECORATION = "|-+"
_SHOWN_CHARACTERS = 24
_EXPECTED = (
    "write 81 cells row by row, a digit for a given and '.' or '0' for a hole; "
    "spaces, line ends and | - + are skipped"
)


@dataclass(frozen=True)
class Sudoku:
    """The task ``sudoku``: a prompt is 81 cells, an answer the same cells without holes."""

    name: str = "sudoku"
    success_word: str = "VERIFIED"
    failure_word: str = "NOT SOLVED"

    def check_prompt(self, text: str) -> str:
        """Return the 81 cells, digits and ``.``; raises RequestError when it is no puzzle."""
        cells = "".join(_cells(text))
        if len(cells) != NUM_CELLS:
            raise RequestError(f"{_shown(text)} has {len(cells)} cells, not 81", hint=_EXPECTED)
        _refuse_contradictions(cells)
        return cells

    def verify(self, prompt: str, answer: str) -> bool:
        """Say whether ``answer`` keeps the givens and fills every unit with nine digits.

        Raises RequestError when ``prompt`` is no puzzle.
        """
        cells = self.check_prompt(prompt)
        if len(answer) != NUM_CELLS:
            return False
        keeps_givens = all(given in (HOLE, cell) for given, cell in zip(cells, answer, strict=True))
        return keeps_givens and all(
            sorted(answer[i] for i in unit) == list(DIGITS) for _, unit in _units()
        )

    def draw(self, cells: Sequence[str]) -> str:
        """Join 81 cells to 13 lines of 25 columns with the boxes set apart."""
        if len(cells) != NUM_CELLS:
            raise ValueError(f"a Sudoku has 81 cells, not {len(cells)}")
        rule = "+-------+-------+-------+"
        lines = [rule]
        for row in range(9):
            boxes = (" ".join(cells[row * 9 + i : row * 9 + i + 3]) for i in (0, 3, 6))
            lines.append(f"| {' | '.join(boxes)} |")
            if row % 3 == 2:
                lines.append(rule)
        return "\n".join(lines)


def _cells(text: str) -> Iterator[str]:
    for position, character in enumerate(text, start=1):
        if character in DIGITS:
            yield character
        elif character in _HOLES:
            yield HOLE
        elif not character.isspace() and character not in _DECORATION:
            raise RequestError(
                f"{_shown(text)} is no Sudoku: character {position} is {character!r}",
                hint=_EXPECTED,
            )


def _units() -> Iterator[tuple[str, list[int]]]:
    """Yield the name and the nine cells of each row, column and box."""
    for n in range(9):
        corner = n // 3 * 27 + n % 3 * 3
        yield f"row {n + 1}", list(range(n * 9, n * 9 + 9))
        yield f"column {n + 1}", list(range(n, NUM_CELLS, 9))
        yield f"box {n + 1}", [corner + row * 9 + column for row in range(3) for column in range(3)]


def _refuse_contradictions(cells: str) -> None:
    for name, unit in _units():
        givens = [cells[i] for i in unit if cells[i] != HOLE]
        for digit in DIGITS:
            if givens.count(digit) > 1:
                raise RequestError(
                    f"the puzzle has no solution: {name} holds {digit} twice",
                    hint="correct the givens; boxes are numbered row by row",
                )


def _shown(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return repr(text)
    return repr(text[:_SHOWN_CHARACTERS] + "...")

"""Holes in a text, and templates that write them as ``[[MASK:12]]``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge.errors import RequestError

MAX_PIECES = 1 << 16

_OPENING = "[[MASK"
_WRITTEN = re.compile(r"\[\[MASK:([0-9]{1,9})\]\]")
_SHOWN_CHARACTERS = 24


@dataclass(frozen=True)
class Hole:
    """A place to be filled with at most ``max_tokens`` tokens; raises RequestError below 1."""

    max_tokens: int

    def __post_init__(self) -> None:
        number = self.max_tokens
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise RequestError(
                f"a hole is of {number!r} tokens", hint="give a whole number of at least 1"
            )


Piece = str | Hole


def parse_template(template: str) -> list[Piece]:
    """Return the texts and holes of a template in order; no text is empty.

    Raises RequestError for what begins like a hole and is none.
    """
    pieces: list[Piece] = []
    begin = 0
    while (start := template.find(_OPENING, begin)) >= 0:
        written = _WRITTEN.match(template, start)
        if written is None or int(written[1]) == 0:
            raise RequestError(
                f"{_shown(template[start:])} at character {start} is no hole",
                hint="write [[MASK:12]] for a hole of at most 12 tokens; "
                "--prefix and --suffix take any text as it is",
            )
        pieces += [template[begin:start], Hole(int(written[1]))]
        begin = written.end()
    pieces.append(template[begin:])
    return [piece for piece in pieces if piece != ""]


def checked_pieces(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Return the pieces as they are; raises RequestError for what cannot be filled."""
    if isinstance(pieces, str) or not isinstance(pieces, Sequence):
        raise RequestError(
            f"the template is of type {type(pieces).__name__}",
            hint="give a list of texts and edge.Hole(N)",
        )
    for piece in pieces:
        if not isinstance(piece, (str, Hole)):
            raise RequestError(
                f"a piece of the template is of type {type(piece).__name__}",
                hint="give texts and edge.Hole(N)",
            )
    if len(pieces) > MAX_PIECES:
        raise RequestError(
            f"the template has {len(pieces)} pieces", hint=f"give at most {MAX_PIECES}"
        )
    if not any(isinstance(piece, Hole) for piece in pieces):
        raise RequestError(
            "the template has no hole",
            hint="write [[MASK:12]], in Python edge.Hole(12), where up to 12 tokens are wanted",
        )
    return tuple(pieces)


def _shown(text: str) -> str:
    line = text.split("\n", 1)[0]
    return repr(line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}...")

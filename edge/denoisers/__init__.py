"""The denoisers that come with the package, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """What an embedded denoiser is; its long form is the .md file beside the model."""

    name: str
    file_name: str
    purpose: str
    example: str  # a prompt it answers
    licence: str
    sha256: str
    default: bool = False


EMBEDDED: dict[str, Card] = {
    card.name: card
    for card in (
        Card(
            name="sudoku",
            file_name="sudoku.gguf",
            purpose="fills in a Sudoku; the answer is checked by the rules",
            example=(
                ".15..2.7.....7.4..3..4...19..9.37...1...2.6.725......3..4..1...5.834976..61.58..4"
            ),
            licence="Apache-2.0",
            sha256="2cfa659c6a287976a038227d22a4d8f5001171b16015c1ad64484b1aed9b0129",
            default=True,
        ),
    )
}

DEFAULT = next(card.name for card in EMBEDDED.values() if card.default)


def path_of(name: str) -> Path:
    """Where the embedded denoiser's file lies; raises KeyError for an unknown name."""
    return Path(__file__).parent / EMBEDDED[name].file_name

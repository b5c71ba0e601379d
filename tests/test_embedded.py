"""The embedded denoisers are what their cards say, and this project's converter made them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import edge
from convert import convert
from edge.denoisers import EMBEDDED, Card, path_of

ROOT = Path(__file__).parents[1]
CARDS = list(EMBEDDED.values())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_file_is_the_one_its_card_names(card: Card) -> None:
    text = path_of(card.name).with_suffix(".md").read_text(encoding="utf-8")
    assert sha256(path_of(card.name)) == card.sha256
    assert card.sha256 in text
    assert card.licence in text


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_its_example_is_answered_and_verified(card: Card) -> None:
    with edge.load(card.name) as model:
        assert model.generate(card.example).verified


def test_sudoku_converts_to_the_very_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "again.gguf"
    convert(ROOT / "tests/golden/sudoku", out, "q8_0", overrides={"edge.task": "sudoku"})
    assert sha256(out) == EMBEDDED["sudoku"].sha256


def test_all_embedded_files_together_stay_small() -> None:
    assert sum(path_of(card.name).stat().st_size for card in CARDS) <= 92_000_000

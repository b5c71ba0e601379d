"""What can be learned: pairs of a prompt with holes and its answer, and a tokenizer for both."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import numpy as np
from denoiser import Denoiser

Pairs = tuple[np.ndarray, np.ndarray]  # prompts and answers, ids [count, length]; a hole is MASK
HeldOut = dict[str, Pairs]  # by the name of a group


class Task(Protocol):
    name: str
    vocab_size: int
    canvas_length: int

    def tokenizer(self) -> dict[str, Any]:
        """What tokenizer.json holds; id 0 is the mask token."""

    def pairs(self, seed: int, first: int, count: int) -> Pairs:
        """The pairs `first` to `first + count - 1` of a seed; equal arguments, equal pairs."""

    def held_out(self, count: int) -> HeldOut:
        """Pairs that no seed trains on."""

    def prepare(self, model: Denoiser) -> None:
        """Change the initial weights, where the task knows better than chance."""


NAMES = ("sudoku", "mirror")


def find(name: str) -> Task:
    """The task of that name: `TASK` of the module so called. Raises ValueError."""
    if name not in NAMES:
        raise ValueError(f"no task is called {name!r}; known: {', '.join(NAMES)}")
    task: Task = import_module(name).TASK
    return task


def word_tokenizer(characters: str, ignore: str, also_mask: str) -> dict[str, Any]:
    """A tokenizer.json with a token per character; the first is the mask token.

    What matches the pattern `ignore` is dropped, `also_mask` is another way to write the first.
    """
    rules = [
        {"type": "Replace", "pattern": {"Regex": ignore}, "content": ""},
        {"type": "Replace", "pattern": {"String": also_mask}, "content": characters[0]},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": rules},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "."},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {character: number for number, character in enumerate(characters)},
            "unk_token": characters[0],
        },
    }

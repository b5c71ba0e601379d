"""What a file's ``edge.task`` names: what a prompt must be, how to draw it, when it is solved.

A task knows rules, never the answer: it may say that an answer keeps them, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import repr as shown
from typing import Protocol

from edge.errors import UnsupportedModelError
from edge.tasks.sudoku import Sudoku


class Task(Protocol):
    """One kind of problem that a denoiser was trained for."""

    @property
    def name(self) -> str:
        """The value of ``edge.task`` in a model file."""

    @property
    def success_word(self) -> str:
        """Said of an answer that `verify` accepts."""

    @property
    def failure_word(self) -> str:
        """Said of an answer that `verify` refuses."""

    def check_prompt(self, text: str) -> str:
        """Return the prompt with one character per cell; raises RequestError when it is none."""

    def verify(self, prompt: str, answer: str) -> bool:
        """Say whether ``answer`` solves ``prompt``, by the rules alone."""

    def draw(self, cells: Sequence[str]) -> str:
        """Join one string per cell to a picture of several lines; a cell may carry markup."""


TASKS: dict[str, Task] = {task.name: task for task in (Sudoku(),)}


def find(name: str | None) -> Task | None:
    """Return the task called ``name``; None for None. Raises UnsupportedModelError."""
    if name is None:
        return None
    if name not in TASKS:
        raise UnsupportedModelError(
            f"the model file names the task {shown(name)}; known: {', '.join(sorted(TASKS))}",
            hint="use a version of this program that knows the task",
        )
    return TASKS[name]

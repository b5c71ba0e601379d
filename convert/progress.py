"""How far a long work is: who wants to know, and a bar on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]  # stage, done, of so many


def silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody wants to know."""


def counted(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """A function that takes what was done since the last call and tells `progress` the sum."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(stage, done, total)

    advance(0)
    return advance


@contextmanager
def progress_bar(hidden: bool) -> Iterator[Progress]:
    """A bar on stderr with one line per stage; silent when hidden."""
    if hidden:
        yield silent
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    stages: dict[str, TaskID] = {}
    with Bar(console=Console(stderr=True), transient=True) as bar:

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
            bar.update(stages[stage], completed=done)

        yield progress

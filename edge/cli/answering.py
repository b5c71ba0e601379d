"""From what was asked to what is shown: loading, watching a request, statistics, verdict."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from edge.cli.options import budget_request
from edge.cli.output import (
    print_line_object,
    print_object,
    size_in_words,
    stderr_can_redraw,
    stdout_is_terminal,
    warnings_on_stderr,
    without_controls,
)
from edge.errors import CancelledError, EdgeError

if TYPE_CHECKING:
    from edge import CancelFlag
    from edge.cli.live import LiveCanvas
    from edge.model import Model
    from edge.result import Commit, Done, Draft, Result, Stats
    from edge.tasks import Task

    Events = Iterator[Draft | Commit | Done]


@dataclass(frozen=True)
class Asked:
    """The options of ``answer_options``, sorted by whom they are for.

    ``loading`` is for ``edge.load``, ``request`` for the library's call.
    """

    loading: dict[str, Any]
    request: dict[str, Any]
    live: bool | None
    json: bool
    stats: bool

    @classmethod
    def of(cls, options: dict[str, Any]) -> Asked:
        """Sort what a command was given."""
        rest = options.copy()
        loading = {name: rest.pop(name) for name in ("threads", "activations", "kv", "pack_cache")}
        shown = {name: rest.pop(name) for name in ("live", "json", "stats")}
        budget = budget_request(*(rest.pop(n) for n in ("budget", "on_tight", "on_infeasible")))
        request = {"max_tokens": rest.pop("tokens"), **rest, **budget}
        return cls(loading, request, **shown)


@contextmanager
def opened(path: str | None, asked: Asked, *, by_line: bool = False) -> Iterator[Model]:
    """Load the model; what fails in the block is told as ``--json`` wants it, or ``by_line``."""
    import edge

    loading = edge.load(path, **asked.loading)
    tell = print_line_object if by_line else print_object
    with _error_as_object(tell if asked.json else None), warnings_on_stderr(), loading as model:
        if asked.request["budget_ms"] is not None:
            model.warm_up()  # before the clock starts
        yield model


@contextmanager
def _error_as_object(tell: Callable[[dict[str, Any]], None] | None) -> Iterator[None]:
    """With ``--json`` an error is an object on stdout as well, for whoever reads only that."""
    try:
        yield
    except EdgeError as error:
        if tell is not None:
            tell({"status": "error", "complete": False, "error": str(error)})
        raise


def watch(
    begin: Callable[[CancelFlag], Events],
    canvas: AbstractContextManager[LiveCanvas] | None,
    *,
    writes: bool,
    kills: bool = True,
) -> tuple[Result, str]:
    """Run a request: draw its canvas, or write its text to stdout as it is committed.

    Return the result and what has been written. Ctrl-C ends the request; a second one ``kills``.
    """
    from edge import CancelFlag
    from edge.cli.generation_thread import GenerationThread, ctrl_c_sets

    cancel = CancelFlag()
    events = begin(cancel)
    written: list[str] = []
    with ctrl_c_sets(cancel, kills=kills), GenerationThread(events, cancel) as generation:
        if canvas is not None:
            with canvas as drawn:
                generation.watch(show=drawn.show)
        else:
            generation.watch(write=_writer(written) if writes else None)
    return generation.result(), "".join(written)


def live_canvas(
    model: Model, asked: Asked, task: Task | None, *, streams: bool, holes: bool = False
) -> LiveCanvas | None:
    """Return what draws the canvas, None where it is not to be drawn.

    What is streamed into a pipe may end on the same terminal.
    """
    live = asked.live
    if live is None:
        live = not asked.json and not (streams and _stdout_is_pipe())
    if model.tokenizer is None or not live or not stderr_can_redraw():
        return None
    from edge.cli.live import LiveCanvas

    return LiveCanvas(model.tokenizer, task, holes=holes)


def _stdout_is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False


def _writer(written: list[str]) -> Callable[[str], None]:
    def write(text: str) -> None:
        written.append(text)
        click.echo(for_stdout(text), nl=False)

    return write


def for_stdout(text: str) -> str:
    """Return ``text`` as it is for pipes and files, harmless for a terminal."""
    return without_controls(text) if stdout_is_terminal() else text


def fields_of(result: Result) -> dict[str, Any]:
    """What ``--json`` tells of every answer."""
    answer = {name: getattr(result, name) for name in ("text", "ids", "status", "complete")}
    return {**answer, "verified": result.verified, **asdict(result.stats)}


def refuse_cancelled(result: Result) -> None:
    """Raise CancelledError for an answer that Ctrl-C ended."""
    if result.status == "cancelled":
        raise CancelledError(
            f"interrupted after {result.stats.steps} steps", hint="the answer is partial"
        )


def stats_line(result: Result) -> str:
    """What ``--stats`` tells of an answer."""
    stats = result.stats
    return (
        f"{stats.steps} steps, {stats.nfe} forwards, {stats.tokens} tokens, "
        f"{_time_in_words(stats)}{_shortfall(result)}, {stats.tokens_per_s:.0f} tokens/s, "
        f"peak {size_in_words(stats.peak_rss_bytes)}{_approximations(stats)}{_drafts(stats)}"
    )


def _time_in_words(stats: Stats) -> str:
    if stats.budget_ms is None or stats.overshoot_ms is None:
        return f"{stats.elapsed_ms:.0f} ms"
    over = stats.overshoot_ms
    rest = f"{over:.0f} ms over" if over > 0 else f"{-over:.0f} ms left"
    return (
        f"{stats.elapsed_ms:.0f} of {stats.budget_ms:.0f} ms ({rest}), "
        f"{stats.forced_tokens} tokens forced below the threshold"
    )


def _shortfall(result: Result) -> str:
    """What the answer lacks for want of time."""
    if result.status == "deadline_infeasible":
        return f", deadline_infeasible: at least {result.stats.min_budget_ms:.3g} ms are needed"
    return f", {result.status}" if result.status in ("shortened", "filled") else ""


def _approximations(stats: Stats) -> str:
    if stats.cache == "exact":
        return ""
    changed = stats.cache_top1_disagreement
    share = "" if changed is None else f", which changed {changed:.1%} of the candidates"
    return f", {stats.cache} cache with {stats.refreshes} refreshes{share}"


def _drafts(stats: Stats) -> str:
    """What came of drafted tokens."""
    drafted, unverified = stats.drafted_tokens, stats.unverified_tokens
    kept = f", {stats.accepted_tokens} of {drafted} drafted tokens kept" if drafted else ""
    return kept + (f", {unverified} tokens unverified" if unverified else "")

"""``edge run``: generate an answer."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge.cli.options import (
    COUNT,
    activations_option,
    budget_options,
    budget_request,
    json_option,
    kv_option,
    model_option,
    pack_cache_option,
    threads_option,
)
from edge.cli.output import (
    print_object,
    size_in_words,
    stderr_can_redraw,
    stdout_is_terminal,
    warnings_on_stderr,
    without_controls,
)
from edge.cli.prompt import read_prompt
from edge.errors import CancelledError, ConstraintError, EdgeError
from edge.exit_codes import EXIT_CODES, verbose_option

if TYPE_CHECKING:
    from edge.model import Model
    from edge.result import Result, Stats


def known_sampler(
    context: click.Context, parameter: click.Parameter, name: str | None
) -> str | None:
    """Refuse an unknown sampler; the registry is only loaded when one is named."""
    if name is None:
        return None
    from edge.samplers import names

    if name not in names():
        problem = f"{name!r} is not one of {', '.join(names())}"
        raise click.BadParameter(problem, context, parameter)
    return name


@click.command(name="run")
@click.argument("prompt", required=False)
@model_option
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the chat template.")
@click.option("--tokens", type=COUNT, metavar="N", help="Most tokens of the answer.")
@budget_options
@click.option("--steps", type=COUNT, metavar="N", help="Denoising steps, all blocks together.")
@click.option("--steps-per-block", type=COUNT, metavar="N", help="Denoising steps per block.")
@click.option(
    "--sampler",
    metavar="NAME",
    callback=known_sampler,
    help="Rule that picks what to commit, e.g. low_confidence_dynamic.",
)
@click.option(
    "--threshold", type=float, metavar="X", help="Confidence from which a sampler commits."
)
@click.option(
    "--segment-threshold", type=float, metavar="X", help="Of hierarchical, per run of holes."
)
@click.option("--factor", type=float, metavar="X", help="Of the sampler factor.")
@click.option("--entropy-bound", type=float, metavar="NATS", help="Of entropy_bounded.")
@click.option(
    "--rank",
    type=click.Choice(["confidence", "margin", "entropy", "random"]),
    help="What makes a position sure.",
)
@click.option("--block-length", type=COUNT, metavar="N", help="Tokens decoded together.")
@click.option(
    "--temperature", type=float, metavar="T", default=0.0, show_default=True, help="0 is greedy."
)
@click.option("--top-k", type=COUNT, metavar="K", help="Draw among the K most probable tokens.")
@click.option("--top-p", type=float, metavar="P", help="Draw among the fewest that reach P.")
@click.option(
    "--guidance",
    type=float,
    metavar="X",
    default=0.0,
    help="Classifier-free guidance; doubles the forwards.",
)
@click.option(
    "--eos",
    type=click.Choice(["stop", "late", "forbid"]),
    default="stop",
    show_default=True,
    help="End tokens end the answer, are committed last, or never.",
)
@click.option(
    "--early-stop",
    type=click.Choice(["none", "stable", "schedule"]),
    default="none",
    show_default=True,
    help="Fill the rest of a block once its candidates stay, or their logits are far apart.",
)
@click.option(
    "--remask",
    type=click.Choice(["none", "conf"]),
    default="none",
    show_default=True,
    help="Spend steps, or time, left over on deciding the least sure tokens anew.",
)
@click.option("--credit", is_flag=True, help="Commit candidates that stay first sooner.")
@click.option(
    "--cache",
    type=click.Choice(["exact", "dual"]),
    default="exact",
    show_default=True,
    help="Reuse what cannot change, or (full attention) nearly all: faster, approximate.",
)
@click.option(
    "--cache-window", type=COUNT, metavar="N", help="Tokens beside the block that dual computes."
)
@click.option(
    "--fused/--no-fused",
    default=None,
    help="Store a finished block in the next one's first forward (default: where exact).",
)
@click.option(
    "--seed", type=int, metavar="N", default=0, show_default=True, help="For temperatures above 0."
)
@threads_option
@activations_option
@kv_option
@pack_cache_option
@click.option(
    "--live/--no-live",
    default=None,
    help="Draw the canvas on a terminal while it is refined (default: unless --json or a pipe).",
)
@json_option
@click.option("--stats", is_flag=True, help="Print steps, time and memory on stderr.")
@verbose_option
def command(
    prompt: str | None,
    model: str | None,
    live: bool | None,
    json: bool,
    stats: bool,
    threads: int | None,
    activations: str,
    kv: str,
    pack_cache: bool,
    raw: bool,
    tokens: int | None,
    budget: float | None,
    on_tight: str,
    on_infeasible: str,
    **options: Any,
) -> None:
    """Generate an answer to PROMPT.

    PROMPT is a user's turn in the model's chat template, where the file has one;
    with --raw it is a text to be continued. What it says is never taken for one of
    the model's control tokens.

    Without PROMPT, or for -, it is read from standard input (a line end at its end
    is dropped). The answer goes to stdout, everything else to stderr. An option
    left out keeps the model file's default. Ctrl-C prints the partial answer. Where a
    model's task has rules, VERIFIED or NOT SOLVED follows on stderr; the latter
    exits with 8.

    With --budget the answer is there in time: the clock counts reading the prompt
    and all denoising steps, not loading. --steps is then an upper bound. 'edge
    calibrate' measures this device beforehand; otherwise the first answers do.

    \b
    Examples:
      edge run 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79
      edge run --steps 8 --stats - < puzzle.txt
      edge run --budget 20ms --stats - < puzzle.txt
      edge run -m model.gguf --tokens 64 --seed 1 --temperature 0.7 "Write a haiku"
      edge run -m model.gguf --raw --json "Once upon a time" > answer.json
    """
    text = read_prompt(prompt)
    import edge

    options |= {"raw": raw, "max_tokens": tokens}
    options |= budget_request(budget, on_tight, on_infeasible)
    loading = edge.load(
        model, threads=threads, activations=activations, kv=kv, pack_cache=pack_cache
    )
    with _error_as_object(json), warnings_on_stderr(), loading as loaded:
        if budget is not None:
            loaded.warm_up()  # before the clock starts
        result, written = _generate(loaded, text, live, json, options)
        _print(loaded, result, written, json)
    if stats:
        click.echo(_stats_line(result), err=True)
    _verdict(loaded, result)


@contextmanager
def _error_as_object(json: bool) -> Iterator[None]:
    """With ``--json`` an error is an object on stdout as well, for whoever reads only that."""
    try:
        yield
    except EdgeError as error:
        if json:
            print_object({"status": "error", "complete": False, "error": str(error)})
        raise


def _generate(
    model: Model, prompt: str, live: bool | None, json: bool, options: dict[str, Any]
) -> tuple[Result, str]:
    """Return the result and what of its text has been written to stdout already."""
    from edge import CancelFlag
    from edge.cli.generation_thread import GenerationThread, ctrl_c_sets

    cancel = CancelFlag()
    events = model.stream(prompt, cancel=cancel, **options)
    written: list[str] = []
    with ctrl_c_sets(cancel), GenerationThread(events, cancel) as generation:
        if model.tokenizer is not None and _draws(live, json, model):
            from edge.cli.live import LiveCanvas

            with LiveCanvas(model.tokenizer, model.task) as canvas:
                generation.watch(show=canvas.show)
        else:
            generation.watch(write=None if json or model.task else _writer(written))
    return generation.result(), "".join(written)


def _draws(live: bool | None, json: bool, model: Model) -> bool:
    """Decide whether to draw: what is streamed into a pipe may end on the same terminal."""
    if live is None:
        live = not json and (model.task is not None or not _stdout_is_pipe())
    return live and stderr_can_redraw()


def _stdout_is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False


def _writer(written: list[str]) -> Callable[[str], None]:
    def write(text: str) -> None:
        written.append(text)
        click.echo(_for_stdout(text), nl=False)

    return write


def _for_stdout(text: str) -> str:
    """Return ``text`` as it is for pipes and files, harmless for a terminal."""
    return without_controls(text) if stdout_is_terminal() else text


def _print(model: Model, result: Result, written: str, json: bool) -> None:
    """Print the object, the drawn task or the rest of the text."""
    text = result.text or ""
    if json:
        answer = {key: getattr(result, key) for key in ("text", "ids", "status", "complete")}
        print_object({**answer, "verified": result.verified, **asdict(result.stats)})
    elif model.task is not None and stdout_is_terminal():
        click.echo(model.task.draw(text))
    else:
        click.echo(_for_stdout(text.removeprefix(written)))


def _stats_line(result: Result) -> str:
    stats = result.stats
    return (
        f"{stats.steps} steps, {stats.nfe} forwards, {stats.tokens} tokens, "
        f"{_time_in_words(stats)}{_shortfall(result)}, {stats.tokens_per_s:.0f} tokens/s, "
        f"peak {size_in_words(stats.peak_rss_bytes)}{_approximations(stats)}"
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


def _verdict(model: Model, result: Result) -> None:
    """Say how it ended if that is more than an answer; raises CancelledError after Ctrl-C."""
    if result.status == "cancelled":
        raise CancelledError(
            f"interrupted after {result.stats.steps} steps", hint="the answer is partial"
        )
    if model.task is None or result.verified is None:
        return
    click.echo(model.task.success_word if result.verified else model.task.failure_word, err=True)
    if not result.verified:
        click.get_current_context().exit(EXIT_CODES[ConstraintError])

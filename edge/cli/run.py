"""``edge run``: generate an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edge.cli.answer_options import answer_options
from edge.cli.answering import (
    Asked,
    fields_of,
    for_stdout,
    live_canvas,
    opened,
    refuse_cancelled,
    stats_line,
    watch,
)
from edge.cli.options import model_option
from edge.cli.output import print_object, stdout_is_terminal
from edge.cli.prompt import read_prompt
from edge.errors import ConstraintError
from edge.exit_codes import EXIT_CODES

if TYPE_CHECKING:
    from edge.model import Model
    from edge.result import Result


@click.command(name="run")
@click.argument("prompt", required=False)
@model_option
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the chat template.")
@answer_options
def command(prompt: str | None, model: str | None, raw: bool, **options: Any) -> None:
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

    A model that reads causally may draft its own next tokens (--sampler speculative):
    the text is that of --sampler autoregressive, in fewer forwards. A budget too short
    for that takes drafts unverified; --stats and --json count them.

    \b
    Examples:
      edge run 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79
      edge run --steps 8 --stats - < puzzle.txt
      edge run --budget 20ms --stats - < puzzle.txt
      edge run -m model.gguf --tokens 64 --seed 1 --temperature 0.7 "Write a haiku"
      edge run -m drafter.gguf --block-length 8 --stats "What is a whale?"
      edge run -m model.gguf --raw --json "Once upon a time" > answer.json
    """
    text, asked = read_prompt(prompt), Asked.of(options)
    with opened(model, asked) as loaded:
        result, written = _generate(loaded, text, raw, asked)
        _print(loaded, result, written, asked.json)
    if asked.stats:
        click.echo(stats_line(result), err=True)
    refuse_cancelled(result)
    _verdict(loaded, result)


def _generate(model: Model, prompt: str, raw: bool, asked: Asked) -> tuple[Result, str]:
    """Return the result and what of its text has been written to stdout already."""
    return watch(
        lambda cancel: model.stream(prompt, raw=raw, cancel=cancel, **asked.request),
        live_canvas(model, asked, model.task, streams=model.task is None),
        writes=not asked.json and model.task is None,
    )


def _print(model: Model, result: Result, written: str, json: bool) -> None:
    """Print the object, the drawn task or the rest of the text."""
    text = result.text or ""
    if json:
        print_object(fields_of(result))
    elif model.task is not None and stdout_is_terminal():
        click.echo(model.task.draw(text))
    else:
        click.echo(for_stdout(text.removeprefix(written)))


def _verdict(model: Model, result: Result) -> None:
    """Say whether the task's rules are kept, where there are such."""
    if model.task is None or result.verified is None:
        return
    click.echo(model.task.success_word if result.verified else model.task.failure_word, err=True)
    if not result.verified:
        click.get_current_context().exit(EXIT_CODES[ConstraintError])

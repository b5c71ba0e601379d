"""``edge fill``: fill the holes of a text."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

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
from edge.cli.output import print_object
from edge.cli.prompt import read_stdin, stdin_is_given

if TYPE_CHECKING:
    from edge.holes import Piece
    from edge.model import Model
    from edge.result import Result

DEFAULT_HOLE = 32  # tokens between --prefix and --suffix


def several_texts(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    """Read a list of texts, separated by commas; spaces belong to them."""
    if text is None:
        return None
    texts = tuple(text.split(","))
    if "" in texts or len(set(texts)) < len(texts):
        problem = f"{text!r} is not a list of different texts, like yes,no"
        raise click.BadParameter(problem, context, parameter)
    return texts


@click.command(name="fill")
@click.argument("template", required=False)
@model_option
@click.option("--prefix", metavar="TEXT", help="Text before a hole, instead of TEMPLATE.")
@click.option("--suffix", metavar="TEXT", help="Text after that hole of --tokens (32).")
@click.option(
    "--choices",
    callback=several_texts,
    metavar="TEXT,...",
    help="Texts, the likeliest of which becomes a hole, e.g. yes,no.",
)
@answer_options
def command(
    template: str | None,
    model: str | None,
    prefix: str | None,
    suffix: str | None,
    choices: tuple[str, ...] | None,
    **options: Any,
) -> None:
    """Fill the holes of TEMPLATE, and leave everything else as it is.

    [[MASK:12]] is a hole of at most 12 tokens; there may be several, also side by
    side. A hole ends up shorter where the model puts an end or padding token
    (--eos forbid does not let it; --eos late does so last). All other text comes
    back byte for byte, and none of it is taken for a control token.

    Without TEMPLATE, or for -, it is read from standard input, and the answer is
    exactly its bytes with the holes filled; after a TEMPLATE argument a line end
    follows. --prefix and --suffix take text as it is, [[MASK:12]] included, and
    leave one hole of --tokens between them. The tokens of a text never reach into a
    hole, so let a hole begin with the space before a word: "a[[MASK:3]] b".

    With --choices each hole becomes the likeliest of the given texts. A text's score is
    the mean log-probability of its tokens, each in view of all text outside the
    hole and of those before it inside; of several holes the surest is decided
    first.

    --json tells what that of 'edge run' tells, and of each hole its text, start and stop (in
    characters of the whole text), ids, and the scores of all choices.

    A model with full attention fills any text. One that attends in blocks sees
    what follows a hole inside its block only: text that goes on beyond is refused.

    \b
    Examples:
      edge fill -m model.gguf "def area(r):[[MASK:16]] * r ** 2"
      edge fill -m model.gguf --budget 800ms - < form.txt > filled.txt
      edge fill -m model.gguf --prefix "Dear " --suffix ", thank you." --tokens 4
      edge fill -m model.gguf --choices " good, bad" --json "I slept. The night was[[MASK:2]]."
      edge fill "[[MASK:9]]672195348198342567859761423426853791713924856961537284287419635345286179"
    """
    pieces, end = _pieces(template, prefix, suffix, options)
    asked = Asked.of(options)
    with opened(model, asked) as loaded:
        result = _fill(loaded, pieces, choices, asked)
        _print(result, end, asked.json)
    if asked.stats:
        click.echo(stats_line(result), err=True)
    refuse_cancelled(result)


def _pieces(
    template: str | None, prefix: str | None, suffix: str | None, options: dict[str, Any]
) -> tuple[list[Piece], str]:
    """Return the template's pieces and what follows it on stdout."""
    from edge.holes import Hole, parse_template

    if prefix is not None or suffix is not None:
        if template is not None:
            raise _usage("--prefix or --suffix is given, and TEMPLATE as well - leave one out")
        size = options["tokens"] or DEFAULT_HOLE
        options["tokens"] = None
        around = (prefix or "", Hole(size), suffix or "")
        return [piece for piece in around if piece != ""], "\n"
    source = click.get_current_context().get_parameter_source("tokens")
    if source is ParameterSource.ENVIRONMENT:  # meant for answers
        options["tokens"] = None
    if options["tokens"] is not None:
        raise _usage("--tokens is given, but TEMPLATE says how large its holes are - leave it out")
    if template is not None and template != "-":
        return parse_template(template), "\n"
    if template is None and not stdin_is_given():
        raise _usage('no template - try edge fill -m MODEL.gguf "Two and two is[[MASK:2]]."')
    return parse_template(read_stdin("template")), ""


def _usage(problem: str) -> click.UsageError:
    return click.UsageError(problem, click.get_current_context(silent=True))


def _fill(
    model: Model, pieces: list[Piece], choices: tuple[str, ...] | None, asked: Asked
) -> Result:
    result, _ = watch(
        lambda cancel: model.stream_fill(pieces, choices=choices, cancel=cancel, **asked.request),
        live_canvas(model, asked, model.task, streams=False, holes=True),
        writes=False,
    )
    return result


def _print(result: Result, end: str, json: bool) -> None:
    if json:
        print_object({**fields_of(result), "holes": [asdict(hole) for hole in result.holes]})
    else:
        click.echo(for_stdout(result.text or "") + end, nl=False)

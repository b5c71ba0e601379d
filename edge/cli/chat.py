"""``edge chat``: a conversation."""

from __future__ import annotations

from collections.abc import Callable
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
from edge.cli.keyboard import Interrupted, lines_of_stdin, typed_lines
from edge.cli.options import model_option
from edge.cli.output import print_line_object, without_controls
from edge.cli.prompt import stdin_is_given
from edge.errors import EdgeError
from edge.exit_codes import one_line

if TYPE_CHECKING:
    from edge.conversation import Conversation
    from edge.model import Model
    from edge.result import Result

_SHOWN_CHARACTERS = 80
GREETING = "Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands"


@click.command(name="chat")
@model_option
@click.option("--system", metavar="TEXT", help="What the model is told before all turns.")
@click.option(
    "--on-full",
    type=click.Choice(["error", "drop-oldest"]),
    default="error",
    show_default=True,
    help="Where the next turn exceeds the model's context: say so, or forget the oldest turns.",
)
@answer_options
def command(model: str | None, system: str | None, on_full: str, **options: Any) -> None:
    """Talk with a model in turns, in its own chat template.

    What a turn has stored is kept for the next one: only what is new is computed, with the
    same answers as without. (A model with full attention computes all of it anew;
    --stats tells how much was kept.) --tokens is the room for each answer (128, at most half
    of the context), --budget the time for each, from the end of the line on.

    On a terminal a line is a turn. Ctrl-C stops the answer, which stays in the
    conversation as far as it came; Ctrl-D or /exit leaves; /undo takes the last turn
    back, /reset all of them, /help lists the commands. To say something that begins
    with a slash, put a space before it.

    Without a terminal every line of standard input that is not blank is a turn, whatever it
    begins with, and the answers follow each other on stdout; with --json each is an
    object on a line of its own. The first error or Ctrl-C ends the conversation then.

    \b
    Examples:
      edge chat -m model.gguf
      edge chat -m model.gguf --system "Answer in French." --budget 2s --stats
      edge chat -m model.gguf --json --on-full drop-oldest < questions.txt > answers.jsonl
    """
    asked = Asked.of(options)
    with opened(model, asked, by_line=True) as loaded:
        conversation = loaded.conversation(
            system, on_full=on_full.replace("-", "_"), **asked.request
        )
        _Chat(loaded, conversation, asked).run()


class _Chat:
    """One conversation on the command line."""

    def __init__(self, model: Model, conversation: Conversation, asked: Asked) -> None:
        self._model = model
        self._conversation = conversation
        self._asked = asked
        self._is_script = stdin_is_given()
        self._num_turns = 0
        self._commands: dict[str, tuple[str, Callable[[], str]]] = {
            "/undo": ("take the last turn back", self._undo),
            "/reset": ("forget all turns", self._reset),
            "/exit": ("leave", lambda: ""),
            "/help": ("this list", self._help),
        }

    def run(self) -> None:
        """Answer what is typed, or line by line what is not; raises what fails first then."""
        if not self._is_script:
            self._run_typed()
            return
        for line in lines_of_stdin():
            refuse_cancelled(self._answer(line))

    def _run_typed(self) -> None:
        """Answer until Ctrl-D or /exit; what fails is told and ends a turn only."""
        name = without_controls(self._model.info.name)[:_SHOWN_CHARACTERS]
        click.echo(f"{name}. {GREETING}", err=True)
        for line in typed_lines():
            if isinstance(line, Interrupted):
                click.echo("Ctrl-D or /exit leaves", err=True)
            elif line == "/exit":
                return
            elif line.startswith("/"):
                click.echo(self._obey(line), err=True)
            else:
                self._answer_or_explain(line)

    def _obey(self, line: str) -> str:
        if line not in self._commands:
            return f"{line!r:.{_SHOWN_CHARACTERS}} is no command; a space before it says it"
        return self._commands[line][1]()

    def _undo(self) -> str:
        return "the last turn is forgotten" if self._conversation.undo() else "there is no turn"

    def _reset(self) -> str:
        self._conversation.reset()
        return "all turns are forgotten"

    def _help(self) -> str:
        return "\n".join(f"{name:<8}{meaning}" for name, (meaning, _) in self._commands.items())

    def _answer_or_explain(self, line: str) -> None:
        try:
            result = self._answer(line)
        except EdgeError as error:
            click.echo(one_line("edge", error), err=True)
        except KeyboardInterrupt:  # before there was anything to stop
            click.echo("stopped", err=True)
        else:
            if result.status == "cancelled":
                click.echo("stopped", err=True)

    def _answer(self, line: str) -> Result:
        before = self._conversation.num_dropped
        result, written = self._generate(line)
        dropped = self._conversation.num_dropped - before
        if dropped and not self._asked.json:
            click.echo(f"edge: the context was full, {dropped} old turns are forgotten", err=True)
        self._num_turns += 1
        if self._asked.json:
            told = {"turn": self._num_turns, "prompt": line, "dropped_turns": dropped}
            print_line_object({**told, **fields_of(result)})
        else:
            click.echo(for_stdout((result.text or "").removeprefix(written)))
        if self._asked.stats:
            reused = f", {result.stats.reused_tokens} of {result.stats.prompt_tokens} kept"
            click.echo(stats_line(result) + reused, err=True)
        return result

    def _generate(self, line: str) -> tuple[Result, str]:
        return watch(
            lambda cancel: self._conversation.stream(line, cancel=cancel),
            live_canvas(self._model, self._asked, None, streams=True),
            writes=not self._asked.json,
            kills=self._is_script,
        )

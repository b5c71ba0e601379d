"""Where a prompt comes from: the command line, or standard input."""

from __future__ import annotations

import sys

import click

from edge.errors import RequestError

MAX_STDIN_BYTES = 2**20

EXAMPLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


def read_prompt(argument: str | None) -> str:
    """Return the prompt: ``argument``, or stdin for ``-`` and for None.

    Raises RequestError for what is not UTF-8 or too long, UsageError when there is no prompt.
    """
    if argument is not None and argument != "-":
        return argument
    if argument is None and not stdin_is_given():
        return _complain()
    text = read_stdin("prompt").removesuffix("\n").removesuffix("\r")
    if argument is None and not text:
        return _complain()
    return text


def stdin_is_given() -> bool:
    """Say whether there is a standard input that nobody has to type."""
    return sys.stdin is not None and not sys.stdin.isatty()


def read_stdin(what: str) -> str:
    """Read stdin to its end as UTF-8; ``what`` is the name for it in errors.

    Raises RequestError for what is not UTF-8 or too long.
    """
    data = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise RequestError(
            f"the {what} on stdin is longer than {MAX_STDIN_BYTES} bytes", hint="shorten it"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"the {what} on stdin is not UTF-8: byte {data[error.start]:#04x} at {error.start}",
            hint="convert it, for example with iconv -t UTF-8",
        ) from None


def _complain() -> str:
    from edge.denoisers import EMBEDDED

    names = "; ".join(f"{card.name}: {card.purpose}" for card in EMBEDDED.values())
    click.echo(f"On board are {names}", err=True)
    click.echo(f"Try:   edge run {EXAMPLE}", err=True)
    click.echo("Or:    edge run -m MODEL.gguf - < PROMPT.txt", err=True)
    raise click.UsageError("no prompt", click.get_current_context(silent=True))

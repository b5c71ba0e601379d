"""Lines that somebody types, and lines of a standard input that nobody types."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

import click

from edge.cli.output import stdout_is_terminal
from edge.cli.prompt import MAX_STDIN_BYTES
from edge.errors import RequestError

PROMPT = "> "


class Interrupted:
    """Ctrl-C instead of a line."""


def typed_lines() -> Iterator[str | Interrupted]:
    """Yield what is typed, without blank lines, until Ctrl-D.

    Lines can be edited and called back where Python has readline. click's and rich's prompts
    ask again for an empty line and cannot tell Ctrl-C from Ctrl-D.
    """
    with suppress(ImportError):
        import readline  # noqa: F401  (input() uses it once it is there)
    while True:
        try:
            line = _typed_line()
        except EOFError:
            click.echo(err=True)
            return
        except KeyboardInterrupt:
            click.echo(err=True)
            yield Interrupted()
            continue
        except UnicodeDecodeError:
            click.echo("that is no UTF-8; nothing was said", err=True)
            continue
        if line.strip():
            yield line


def _typed_line() -> str:
    """Ask for a line on the terminal, which stdout is not when answers go elsewhere."""
    if stdout_is_terminal():
        return input(PROMPT)
    click.echo(PROMPT, nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def lines_of_stdin() -> Iterator[str]:
    """Yield the lines of stdin as they come, without blank ones and line ends.

    Raises RequestError for one that is not UTF-8 or too long.
    """
    number = 0
    while data := sys.stdin.buffer.readline(MAX_STDIN_BYTES + 1):
        number += 1
        if len(data) > MAX_STDIN_BYTES:
            raise RequestError(
                f"line {number} on stdin is longer than {MAX_STDIN_BYTES} bytes", hint="shorten it"
            )
        try:
            line = data.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise RequestError(
                f"line {number} on stdin is not UTF-8: byte {data[error.start]:#04x} at "
                f"{error.start}",
                hint="convert it, for example with iconv -t UTF-8",
            ) from None
        if line.strip():
            yield line

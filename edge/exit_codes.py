"""How a command ends: one line on stderr and an exit code, whatever happened.

======  =====================================================================
code    when
======  =====================================================================
0       done
2       usage: unknown option, unusable prompt, context too long, file exists
3       the model file is bad
4       the model is sound, but not supported
5       not found
6       does not fit in memory
7       the latency budget is too short for any answer
8       the answer is not what was asked for
70      internal: anything else, non-finite numbers among them
130     Ctrl-C
141     the reader of stdout went away; nothing is printed
143     SIGTERM
======  =====================================================================
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from edge.errors import (
    BudgetError,
    CancelledError,
    ConstraintError,
    EdgeError,
    ModelFileError,
    ModelNotFoundError,
    NumericError,
    RequestError,
    UnsupportedModelError,
    printable,
)

INTERNAL = 70
CLOSED_PIPE = 141

_VERBOSE = "edge.verbose"


class Terminated(BaseException):
    """SIGTERM arrived."""


EXIT_CODES: dict[type[BaseException], int] = {
    click.ClickException: 2,
    RequestError: 2,
    FileExistsError: 2,
    ModelFileError: 3,
    UnsupportedModelError: 4,
    ModelNotFoundError: 5,
    FileNotFoundError: 5,
    MemoryError: 6,
    BudgetError: 7,
    ConstraintError: 8,
    NumericError: INTERNAL,
    click.Abort: 130,
    KeyboardInterrupt: 130,
    CancelledError: 130,
    BrokenPipeError: CLOSED_PIPE,
    Terminated: 143,
}


def verbose_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``-v``/``--verbose``, which `guarded` asks for."""

    def remember(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        context.meta[_VERBOSE] = wanted

    option = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=remember,
        help="Show the traceback of an error.",
    )
    return option(command)


def exit_code(error: BaseException) -> int:
    """Return the code of the error's nearest class in `EXIT_CODES`, else 70."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), INTERNAL)


def one_line(program: str, error: BaseException) -> str:
    """Return ``PROGRAM: error: WHAT (FILE[:offset]) - WHAT TO DO``, safe for any terminal."""
    return printable(f"{program}: error: {_message(error)}")


def guarded(program: str, command: click.Command, args: list[str] | None = None) -> int:
    """Run ``command`` and return its exit code; never raises.

    What goes wrong becomes one line on stderr, after its traceback if ``-v`` was given.
    """
    _escape_what_cannot_be_encoded()
    context: click.Context | None = None
    try:
        with _sigterm_raises():
            context = command.make_context(program, list(sys.argv[1:] if args is None else args))
            with context:
                command.invoke(context)
            _flush_stdout()
    except click.exceptions.Exit as request:
        return _end(program, None, False) or request.exit_code
    except BaseException as error:  # the last handler there is
        verbose = context is not None and context.meta.get(_VERBOSE, False)
        return _end(program, error, verbose)
    return 0


def _end(program: str, error: BaseException | None, verbose: bool) -> int:
    """Flush stdout, report ``error`` or what the flush raised, return the code."""
    try:
        _flush_stdout()
    except OSError as failure:
        error = error or failure
    if error is None:
        return 0
    code = exit_code(error)
    if code != CLOSED_PIPE:
        with suppress(OSError, ValueError):  # stderr may be closed as well
            if verbose:
                traceback.print_exception(type(error), error, error.__traceback__)
            click.echo(one_line(program, error), err=True)
    return code


def _message(error: BaseException) -> str:
    if isinstance(error, EdgeError):
        return str(error)
    if isinstance(error, click.ClickException):
        return _usage_message(error)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "interrupted"
    if isinstance(error, Terminated):
        return "stopped by SIGTERM"
    if isinstance(error, MemoryError):
        return f"out of memory{_detail(error)} - use a smaller model, prompt or answer"
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f" ({os.fsdecode(error.filename)})"
        return f"{error.strerror[0].lower()}{error.strerror[1:]}{place}"
    return f"internal error: {type(error).__name__}{_detail(error)} - use -v for the traceback"


def _usage_message(error: click.ClickException) -> str:
    what = error.format_message().rstrip(".")
    what = what[:1].lower() + what[1:]
    context = getattr(error, "ctx", None)
    return what if context is None else f"{what} - see '{context.command_path} --help'"


def _detail(error: BaseException) -> str:
    text = str(error)
    return f": {text}" if text else ""


def _escape_what_cannot_be_encoded() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush_stdout() -> None:
    """Raise here what a closed or full stdout raises, so that nothing is left to the exit."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()
        raise


def _discard_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may install handlers
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one kills
        raise Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

"""Every outcome of a command: its code, its one line, nothing else."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from edge import errors
from edge.exit_codes import exit_code, guarded, one_line, verbose_option

CASES: list[tuple[BaseException, int, str]] = [
    (errors.RequestError("bad prompt", hint="write one"), 2, "bad prompt - write one"),
    (errors.ContextLengthError("too long"), 2, "too long"),
    (
        errors.ModelFileError("m.gguf", 12, "bad magic", hint="convert it"),
        3,
        "bad magic (m.gguf:12) - convert it",
    ),
    (errors.UnsupportedModelError("no such noise", path="m.gguf"), 4, "no such noise (m.gguf)"),
    (errors.ModelNotFoundError("no model 'x'"), 5, "no model 'x'"),
    (
        errors.BudgetError("too short", budget_ms=1, min_budget_ms=9, hint="give 9 ms"),
        7,
        "too short - give 9 ms",
    ),
    (errors.ConstraintError("not met"), 8, "not met"),
    (errors.NumericError("blk.3: not finite"), 70, "blk.3: not finite"),
    (errors.ModelClosedError("closed"), 70, "closed"),
    (errors.CancelledError("interrupted"), 130, "interrupted"),
    (click.UsageError("No such thing."), 2, "no such thing - see 'edge --help'"),
    (FileExistsError(17, "File exists", "out.gguf"), 2, "file exists (out.gguf)"),
    (FileNotFoundError(2, "No such file", "in"), 5, "no such file (in)"),
    (
        PermissionError(13, "Permission denied", b"\xff.gguf"),
        70,
        "permission denied (\\udcff.gguf)",
    ),
    (MemoryError(), 6, "out of memory - use a smaller model, prompt or answer"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (
        ZeroDivisionError("division by zero"),
        70,
        "internal error: ZeroDivisionError: division by zero - use -v for the traceback",
    ),
]


def command_that(action: Callable[[], Any]) -> click.Command:
    @click.command()
    @verbose_option
    def command() -> None:
        action()

    return command


def raising(error: BaseException) -> click.Command:
    def action() -> None:
        raise error

    return command_that(action)


@pytest.mark.parametrize(("error", "code", "message"), CASES, ids=lambda x: type(x).__name__)
def test_an_error_becomes_one_line_and_its_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded("edge", raising(error), []) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"edge: error: {message}\n")


def test_verbose_adds_the_traceback_before_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded("edge", raising(errors.ConstraintError("not met")), ["-v"]) == 8
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "edge: error: not met"


def test_unknown_options_are_usage_errors_that_name_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert guarded("edge-convert", command_that(int), ["--nonsense"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("edge-convert: error: no such option")
    assert err.endswith("- see 'edge-convert --help'\n")


def test_success_and_an_asked_for_code_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded("edge", command_that(int), []) == 0
    exits = command_that(lambda: click.get_current_context().exit(8))
    assert guarded("edge", exits, []) == 8
    assert capsys.readouterr() == ("", "")


def test_sigterm_ends_a_command_with_143(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert guarded("edge", command_that(lambda: os.kill(os.getpid(), signal.SIGTERM)), []) == 143
    assert capsys.readouterr().err == "edge: error: stopped by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    "text", ["\udcff", "\x1b[31mred", "two\nlines", "a\x00b", "\x9b31m", "\u2028", "\r"]
)
def test_a_line_stays_one_line_that_any_terminal_can_take(text: str) -> None:
    line = one_line("edge", ValueError(text))
    assert line.isprintable()
    line.encode("utf-8")


def test_a_lone_surrogate_reaches_a_stream_of_any_encoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    assert guarded("edge", command_that(lambda: click.echo("\udcff é")), []) == 0
    assert out.buffer.getvalue() == b"\\udcff \xe9\n"


def test_subclasses_take_the_code_of_their_nearest_known_class() -> None:
    class Nearer(errors.ContextLengthError):
        pass

    assert exit_code(Nearer("x")) == 2

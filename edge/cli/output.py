"""What goes to stdout: text for people, one JSON object for programs."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

import click

from edge.errors import printable

SCHEMA = 1

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_object(fields: Mapping[str, Any]) -> None:
    """Print one JSON object with its schema number; numbers JSON cannot hold become null."""
    click.echo(json.dumps(_plain({"schema": SCHEMA, **fields}), indent=2, allow_nan=False))


def print_line_object(fields: Mapping[str, Any]) -> None:
    """Print the same on one line, for commands that print several objects."""
    click.echo(json.dumps(_plain({"schema": SCHEMA, **fields}), allow_nan=False))


def print_rows(rows: Mapping[str, object]) -> None:
    """Print names and values in two columns; a value that is None is left out."""
    width = max(map(len, rows), default=0) + 2
    for name, value in rows.items():
        if value is not None:
            click.echo(f"{name:<{width}}{without_controls(str(value))}")


def without_controls(text: str) -> str:
    """Replace control characters, which a terminal would obey, by U+FFFD."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def stdout_is_terminal() -> bool:
    """Say whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def stderr_can_redraw() -> bool:
    """Say whether stderr is a terminal that can move its cursor."""
    dumb = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    return sys.stderr is not None and sys.stderr.isatty() and not dumb


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Show what the library warns of, a line each."""
    import logging

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            click.echo(printable(f"edge: warning: {record.getMessage()}"), err=True)

    library, lines = logging.getLogger("edge"), Lines(logging.WARNING)
    library.addHandler(lines)
    try:
        yield
    finally:
        library.removeHandler(lines)


def size_in_words(num_bytes: float) -> str:
    """Write a size for people, e.g. ``4.7 MiB``."""
    size = num_bytes / 1024
    for unit in ("KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _plain(value: object) -> object:
    """Turn numpy numbers, paths and containers into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

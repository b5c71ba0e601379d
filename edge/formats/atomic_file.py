"""Replace a file whole or not at all.

The new content is written beside the target, flushed to disk, checked by the caller, and only
then renamed over it. A kill at any moment leaves the target absent or as it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path in the target's folder to write to; rename it over the target on success.

    Raises whatever the body raises, after removing the unfinished file.
    """
    target = Path(target)
    sweep_partials(target)
    partial = target.with_name(f".{target.name}.partial.{os.getpid()}")
    try:
        yield partial
        _flush_to_disk(partial)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _flush_to_disk(target.parent)


def sweep_partials(target: Path) -> None:
    """Remove what killed writers of this very target left behind."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.partial\.(\d+)")
    for entry in target.parent.glob(f".{_glob_literal(target.name)}.partial.*"):
        match = pattern.fullmatch(entry.name)
        if match and not psutil.pid_exists(int(match[1])):
            with suppress(OSError):
                entry.unlink()


def _glob_literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

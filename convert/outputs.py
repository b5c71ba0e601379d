"""Where a conversion may write: checked before any work begins."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

from edge.errors import RequestError

_MIB = 1 << 20


def check_targets(
    sources: Sequence[Path], out: Path, texts: Sequence[Path], *, force: bool
) -> None:
    """Raise RequestError when the output, the report or the card cannot or must not be written."""
    targets = (out, *texts)
    for number, target in enumerate(targets):
        for source in sources:
            _check_target(target, source, force)
        if target.resolve() in {other.resolve() for other in targets[:number]}:
            raise RequestError(
                "two of the output, the report and the card are one file",
                path=target,
                hint="give another name",
            )


def check_free_space(out: Path, needed_bytes: int) -> None:
    """Raise OSError (ENOSPC) when the output's disk has less than `needed_bytes` free."""
    free_bytes = shutil.disk_usage(out.parent).free
    if needed_bytes > free_bytes:
        reason = "no space left on device: "
        reason += f"{needed_bytes // _MIB + 1} MiB needed, {free_bytes // _MIB} MiB free"
        raise OSError(errno.ENOSPC, reason, str(out))


def _check_target(target: Path, source: Path, force: bool) -> None:
    if target.resolve().is_relative_to(source.resolve()):
        hint = f"give a path outside of {source}"
        raise RequestError("the output lies in the source", path=target, hint=hint)
    if not target.parent.is_dir():
        raise RequestError("there is no such folder", path=target.parent, hint="create it first")
    if target.exists() and not target.is_file():
        raise RequestError("the output is no regular file", path=target, hint="name another file")
    if (target.exists() or target.is_symlink()) and not force:
        raise RequestError("the output exists", path=target, hint="use --force to replace it")

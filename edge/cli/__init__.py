"""The command ``edge``: one file per command, loaded when it is asked for."""

from __future__ import annotations

import sys


def main(args: list[str] | None = None) -> int:
    """Run ``edge`` with ``args``, or with the process's own; return the exit code."""
    try:  # imports take long enough to be hit by Ctrl-C
        from edge.cli.group import group
        from edge.exit_codes import guarded
    except KeyboardInterrupt:
        sys.stderr.write("edge: error: interrupted\n")
        return 130
    return guarded("edge", group, args)

"""Renders a chat template in a process of its own: started by ``edge.template``, never imported.

A template comes out of a model file and may be hostile. The engine counts its steps, but a
namespace that holds itself or a long row of signs overflows the stack, and a list doubled sixty
times never returns. Here that ends one process, which has little memory and time to waste.

Reads one JSON object from stdin (``path``: where to import from; ``source``; ``renderings``: the
variables of each) and writes one to stdout: ``texts``, or ``refused`` or ``broken`` with a reason.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

FUEL = 2_000_000  # steps of the engine; real templates need thousands
MAX_CPU_S = 0.3
MAX_MEMORY = 64 << 20  # bytes beyond what the process needs for itself
MAX_STACK = 8 << 20  # bytes
MAX_OUTPUT = 4 << 20  # bytes of UTF-8

_SHOWN_CHARACTERS = 200


class _RefusedByTemplate(Exception):
    """The template calls raise_exception."""


def main() -> None:
    """Serve the one request."""
    job = json.load(sys.stdin.buffer)
    sys.path[:] = job["path"]
    from minijinja import Environment

    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        pycompat=True,
        fuel=FUEL,
        auto_escape_callback=lambda _name: False,
        filters={"tojson": _tojson},
        globals={"raise_exception": _refuse, "strftime_now": _now_as},
    )
    _set_limits()
    json.dump(_answer(environment, job), sys.stdout)


def _answer(environment: Any, job: dict[str, Any]) -> dict[str, Any]:
    try:
        texts = [environment.render_str(job["source"], **each) for each in job["renderings"]]
    except _RefusedByTemplate as refusal:
        return {"refused": _one_line(refusal)}
    except Exception as error:
        return {"broken": _one_line(error)}
    if any(len(text.encode()) > MAX_OUTPUT for text in texts):
        return {"broken": f"it writes more than {MAX_OUTPUT} bytes"}
    return {"texts": texts}


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(reason: Any) -> NoReturn:
    raise _RefusedByTemplate(reason)


def _now_as(form: str) -> str:
    return datetime.now().strftime(form)


def _one_line(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line[:_SHOWN_CHARACTERS]


def _set_limits() -> None:
    """What exceeds time is killed by SIGPROF, what exceeds memory fails or crashes."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_STACK, MAX_STACK)
    in_use = _data_bytes()
    if in_use is not None:
        _lower(resource.RLIMIT_DATA, in_use + MAX_MEMORY)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, hard))


def _data_bytes() -> int | None:
    """Writable memory of this process, None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmData:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


if __name__ == "__main__":
    main()

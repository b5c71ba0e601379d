"""Who executes a step, by name. A new backend is a file and a line in ``BACKENDS``."""

from __future__ import annotations

from collections.abc import Callable

from edge.backends.base import Backend
from edge.backends.native import NativeBackend
from edge.errors import RequestError

BACKENDS: dict[str, Callable[..., Backend]] = {"native": NativeBackend}


def find(name: str) -> Callable[..., Backend]:
    """Return the maker of that backend; raises RequestError that lists the known ones."""
    if name not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise RequestError(f"there is no backend {name!r}", hint=f"use one of {known}")
    return BACKENDS[name]

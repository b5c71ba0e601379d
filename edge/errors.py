"""Every error the package raises on purpose.

::

    EdgeError
    ├── RequestError            the caller's text or options (also a ValueError)
    │   └── ContextLengthError  prompt and answer exceed the model's context
    ├── ModelNotFoundError      no such file, no such embedded denoiser
    ├── ModelFileError          the model file breaks the format; carries path, offset, reason
    ├── UnsupportedModelError   a sound file this version cannot run
    ├── BudgetError             the latency budget is too short; carries the smallest feasible one
    ├── ModelClosedError        the model was closed before or during the call
    ├── ConstraintError         the answer does not meet what was asked of it
    ├── DoesNotFitError         memory or disk is too small (also a MemoryError)
    ├── NumericError            non-finite numbers; names the layer
    └── CancelledError          the caller cancelled

Each prints as one line: ``WHAT (FILE[:offset]) - WHAT TO DO``.
"""

from __future__ import annotations

from os import PathLike, fspath


def printable(text: str) -> str:
    """Escape line ends, control characters and lone surrogates, so that text is one line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class EdgeError(Exception):
    """Base of all errors. ``hint`` says what to do; ``path`` and ``offset`` say where."""

    def __init__(
        self,
        what: str,
        *,
        path: str | PathLike[str] | None = None,
        offset: int | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.path = None if path is None else fspath(path)
        self.offset = offset
        self.hint = hint

    def __str__(self) -> str:
        place = self.path or ""
        if self.offset is not None:
            place += f":{self.offset}"
        located = f"{self.what} ({place})" if place else self.what
        return printable(f"{located} - {self.hint}" if self.hint else located)


class RequestError(EdgeError, ValueError):
    """The caller's text or options cannot be served."""


class ContextLengthError(RequestError):
    """Prompt and answer together exceed the model's context."""


class ModelNotFoundError(EdgeError):
    """No such file and no embedded denoiser of that name."""


class ModelFileError(EdgeError):
    """A model file or checkpoint breaks its format; ``offset`` is in bytes from its start."""

    def __init__(
        self,
        path: str | PathLike[str] | None,
        offset: int | None,
        reason: str,
        *,
        hint: str = "the file is damaged or was not made for this program; convert it again",
    ) -> None:
        super().__init__(reason, path=path, offset=offset, hint=hint)
        self.reason = reason


class UnsupportedModelError(EdgeError):
    """A sound model that this version cannot run or convert."""


class ModelClosedError(EdgeError):
    """The model was closed before or during the call."""


class BudgetError(EdgeError):
    """The latency budget is too short for any answer; both are in ms."""

    def __init__(self, what: str, *, budget_ms: float, min_budget_ms: float, hint: str) -> None:
        super().__init__(what, hint=hint)
        self.budget_ms = budget_ms
        self.min_budget_ms = min_budget_ms


class ConstraintError(EdgeError):
    """The answer does not meet what was asked of it."""


class DoesNotFitError(EdgeError, MemoryError):
    """Memory or disk is too small for what was asked; the message has the numbers."""


class NumericError(EdgeError):
    """Non-finite numbers appeared; the message names the layer."""


class CancelledError(EdgeError):
    """The caller cancelled before there was a result."""

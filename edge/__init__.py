"""Runs diffusion language models on the processor in front of you.

>>> import edge
>>> with edge.load() as model:                       # the embedded default denoiser
...     result = model.generate(puzzle, seed=0)

Names are imported on first use, so that ``import edge`` and ``edge --help`` stay instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge._native import CancelFlag
    from edge.conversation import Conversation
    from edge.errors import (
        BudgetError,
        CancelledError,
        ConstraintError,
        ContextLengthError,
        DoesNotFitError,
        EdgeError,
        ModelClosedError,
        ModelFileError,
        ModelNotFoundError,
        NumericError,
        RequestError,
        UnsupportedModelError,
    )
    from edge.holes import Hole
    from edge.info import ModelInfo, inspect
    from edge.model import Model, load
    from edge.result import Commit, Done, Draft, FilledHole, Result, Stats

__version__ = "0.1.0"

_HOMES = {
    "edge._native": ("CancelFlag",),
    "edge.errors": (
        "BudgetError",
        "CancelledError",
        "ConstraintError",
        "ContextLengthError",
        "DoesNotFitError",
        "EdgeError",
        "ModelClosedError",
        "ModelFileError",
        "ModelNotFoundError",
        "NumericError",
        "RequestError",
        "UnsupportedModelError",
    ),
    "edge.conversation": ("Conversation",),
    "edge.holes": ("Hole",),
    "edge.info": ("ModelInfo", "inspect"),
    "edge.model": ("Model", "load"),
    "edge.result": ("Commit", "Done", "Draft", "FilledHole", "Result", "Stats"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BudgetError",
    "CancelFlag",
    "CancelledError",
    "Commit",
    "ConstraintError",
    "ContextLengthError",
    "Conversation",
    "DoesNotFitError",
    "Done",
    "Draft",
    "EdgeError",
    "FilledHole",
    "Hole",
    "Model",
    "ModelClosedError",
    "ModelFileError",
    "ModelInfo",
    "ModelNotFoundError",
    "NumericError",
    "RequestError",
    "Result",
    "Stats",
    "UnsupportedModelError",
    "inspect",
    "load",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""``edge`` offers what it says, and loads nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edge
from edge import errors
from edge.errors import EdgeError

HEAVY = ("numpy", "torch", "transformers", "onnx", "onnxruntime", "llama_cpp", "convert", "gguf")


def test_all_is_what_is_there() -> None:
    assert edge.__all__ == sorted(edge.__all__)
    lazy = {name for names in edge._HOMES.values() for name in names}
    assert set(edge.__all__) == lazy
    assert lazy <= set(dir(edge))
    for name in edge.__all__:
        assert getattr(edge, name).__name__ == name


def test_every_error_is_exported() -> None:
    kinds = {k for k, v in vars(errors).items() if isinstance(v, type) and issubclass(v, EdgeError)}
    assert kinds <= set(edge.__all__)


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from edge import *", names)
    assert set(edge.__all__) <= set(names)


def test_what_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'edge' has no attribute 'Modell'"):
        edge.Modell  # noqa: B018


@pytest.mark.parametrize("modules", ["edge", "edge, edge.errors", "edge.cli"])
def test_importing_loads_nothing_heavy(modules: str) -> None:
    program = f"import {modules}, sys; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ended.stdout.decode().split() == []


def test_loading_a_model_loads_no_other_engine() -> None:
    program = "import edge, sys; edge.load().close(); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not set(HEAVY[1:]) & set(ended.stdout.decode().split())

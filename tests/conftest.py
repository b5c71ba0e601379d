"""What all tests share: golden checkpoints, converted models, one run per instruction set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from convert import convert
from edge import _native

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """``golden("llada")``: the folder of a golden checkpoint, to be read only."""
    return GOLDEN.joinpath


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``converted(folder, "q8_0")``: that checkpoint as a model file, made once per session."""
    folder = tmp_path_factory.mktemp("converted")
    files: dict[tuple[Path, str], Path] = {}

    def model_file(source: Path, type: str = "f32") -> Path:
        key = (source, type)
        if key not in files:
            files[key] = folder / f"{len(files)}-{source.name}-{type}.gguf"
            convert(source, files[key], type)
        return files[key]

    return model_file


@pytest.fixture(params=_native.supported_isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this processor runs, in force for ``edge.load``."""
    monkeypatch.setenv("EDGE_ISA", request.param)
    return str(request.param)

"""Open a model file: the strict native reader behind the package's own errors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from edge import _native
from edge.errors import ModelFileError, ModelNotFoundError


@dataclass(frozen=True)
class Header:
    """Everything before the tensor data. ``tensors`` is in file order, offsets in bytes."""

    path: str
    metadata: dict[str, Any]
    tensors: dict[str, _native.TensorInfo]
    size_bytes: int
    data_offset: int


def read_header(path: str | PathLike[str]) -> Header:
    """Read and check the header without touching tensor data.

    Raises ModelFileError for a file that breaks the format, ModelNotFoundError for none.
    """
    return header_of(fspath(path), _open(path, map_tensors=False))


def open_model(path: str | PathLike[str]) -> _native.ModelFile:
    """Check the file and map its tensors read-only. Raises like ``read_header``."""
    return _open(path, map_tensors=True)


def header_of(path: str, file: _native.ModelFile) -> Header:
    """What ``read_header`` returns, of a file that is open already."""
    return Header(path, file.metadata, file.tensors, file.size_bytes, file.data_offset)


def _open(path: str | PathLike[str], map_tensors: bool) -> _native.ModelFile:
    name = fspath(path)
    if "\0" in name:  # the system would open the file of the shorter name
        raise ModelNotFoundError("no file name holds a NUL", path=name, hint="correct the path")
    try:
        return _native.ModelFile(os.fsencode(name), map_tensors)
    except _native.FileFault as fault:
        offset, reason = fault.args
        raise ModelFileError(name, offset, reason) from None
    except FileNotFoundError:
        raise ModelNotFoundError(
            "there is no such model file", path=name, hint="`edge models` lists the embedded ones"
        ) from None
    except OSError as error:
        reason = f"the model file cannot be read: {error.strerror}"
        raise ModelFileError(
            name, None, reason, hint="check the path and its permissions"
        ) from None

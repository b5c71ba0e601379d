"""Write a GGUF v3 file tensor by tensor: header first, then one tensor in memory at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from convert.metadata import Entry
from convert.plan import ALIGNMENT, Plan, PlannedTensor
from edge import _native
from edge.errors import UnsupportedModelError
from edge.formats import keys

_VALUE_TYPES = {
    "u32": (GGUFValueType.UINT32, None),
    "f32": (GGUFValueType.FLOAT32, None),
    "bool": (GGUFValueType.BOOL, None),
    "bools": (GGUFValueType.ARRAY, GGUFValueType.BOOL),
    "string": (GGUFValueType.STRING, None),
    "u32s": (GGUFValueType.ARRAY, GGUFValueType.UINT32),
    "i32s": (GGUFValueType.ARRAY, GGUFValueType.INT32),
    "strings": (GGUFValueType.ARRAY, GGUFValueType.STRING),
}
# What a half-precision number can hold, times the largest stored factor of a group. int4's search
# may give a minimum, or a seventh of a scale, some way beyond the values.
_LARGEST = {
    "f16": 65504.0,
    "q8_0": 65504.0 * 127,
    "q4_0": 65504.0 * 8,
    "int8": 65504.0 * 127,
    "int4": 65504.0 / 2,
}

Stored = NDArray[np.uint8]
Parts = Callable[[PlannedTensor], Iterable[Stored]]


def write_gguf(
    path: Path,
    entries: Iterable[Entry],
    plan: Plan,
    parts: Parts,
    advance: Callable[[int], None],
) -> None:
    """Write the whole file to `path`; `parts` gives a tensor's bytes piece by piece, `advance`
    gets their numbers.

    Raises OSError, and UnsupportedModelError for values that a type cannot hold.
    """
    _write_header(path, entries, plan)
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        _pad(file)
        _reserve(path, plan.data_bytes)
        for tensor in plan.tensors:
            for part in parts(tensor):
                file.write(part.data)
                advance(part.nbytes)
            _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))


def encoded(tensor: PlannedTensor, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`values` as the planned type, `[rows, row_bytes]`.

    Raises UnsupportedModelError when they exceed what the type can hold.
    """
    largest = max(-float(values.min()), float(values.max()))
    if largest > _LARGEST.get(tensor.type, np.inf):
        raise UnsupportedModelError(
            f"tensor '{tensor.spec.source}' holds {largest:g}, too large for {tensor.type}",
            hint="convert with --type bf16 or f32",
        )
    rows = values.reshape(-1, values.shape[-1])
    return _native.quantize(tensor.type, rows, *tensor.layout.choices)


def _write_header(path: Path, entries: Iterable[Entry], plan: Plan) -> None:
    by_key = {entry.key: entry for entry in entries}
    writer = GGUFWriter(path, by_key.pop(keys.ARCHITECTURE).value)
    for entry in by_key.values():
        kind, element = _VALUE_TYPES[entry.kind]
        writer.add_key_value(entry.key, entry.value, kind, element)
    for tensor in plan.tensors:
        writer.add_tensor_info(
            tensor.stored_name,
            tensor.layout.stored_shape(tensor.spec.shape),
            np.dtype(np.float32),
            tensor.num_bytes,
            _stored_type(tensor),
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _stored_type(tensor: PlannedTensor) -> GGMLQuantizationType:
    return GGMLQuantizationType["I8" if tensor.layout.is_own else tensor.type.upper()]


def _reserve(path: Path, data_bytes: int) -> None:
    """Learn of a full disk or a quota now, not after hours of work."""
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(path, os.O_WRONLY)
    try:
        header_bytes = os.fstat(descriptor).st_size
        padded_bytes = -(-header_bytes // ALIGNMENT) * ALIGNMENT
        os.posix_fallocate(descriptor, 0, padded_bytes + data_bytes)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
            error.filename = str(path)
            raise
    finally:
        os.close(descriptor)

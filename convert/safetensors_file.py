"""Where each tensor of a safetensors file lies, and its values widened to float32.

The `safetensors` library validates the file; its header is read here once more because the
library has no bfloat16 for numpy and does not tell offsets.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from convert.json_file import parse_object
from edge.errors import ModelFileError, UnsupportedModelError

_HINT = "the file is damaged or incomplete; fetch the checkpoint again"
_COMPARED_VALUES = 1 << 21  # at once
_NUMPY_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Tensor(Protocol):
    """A tensor whose values are not read before they are asked for."""

    @property
    def name(self) -> str:
        """Its name in the source."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows before columns."""

    @property
    def dtype(self) -> str:
        """The type that holds its values exactly, as safetensors names it."""

    def values(self, first_row: int = 0, num_rows: int | None = None) -> NDArray[np.float32]:
        """Of some rows, or all. Raises ModelFileError when a value is not finite."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint; `offset` and `num_bytes` are bytes in `path`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    num_bytes: int

    def values(self, first_row: int = 0, num_rows: int | None = None) -> NDArray[np.float32]:
        """The values of some rows, or all, widened exactly to float32.

        A row is an element of the first dimension. Raises UnsupportedModelError for a dtype other
        than F32, F16 and BF16, and ModelFileError when a value is not finite.
        """
        if not self.shape:
            return self._values(0, ())
        count = self.shape[0] - first_row if num_rows is None else num_rows
        return self._values(first_row, (count, *self.shape[1:]))

    def _values(self, first_row: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        skipped = first_row * math.prod(shape[1:])
        values = _widened(self._raw(skipped, math.prod(shape))).reshape(shape)
        require_finite(values, self.name, self.path, first_row)
        return values

    def _raw(self, skipped: int, count: int) -> NDArray[np.generic]:
        """`count` stored values after the first `skipped`; bfloat16 as uint16.

        They are read, not mapped: a mapped file that shrinks meanwhile kills the process.
        """
        if self.dtype not in _NUMPY_TYPES:
            raise UnsupportedModelError(
                f"tensor '{self.name}' is stored as {self.dtype}",
                path=self.path,
                hint=f"save the checkpoint as one of {', '.join(_NUMPY_TYPES)}",
            )
        dtype = np.dtype(_NUMPY_TYPES[self.dtype])
        offset = self.offset + skipped * dtype.itemsize
        values = np.fromfile(self.path, dtype, count, offset=offset)
        if len(values) < count:
            raise _changed(self.path, self.name)
        return values


def are_equal(one: Tensor, other: Tensor) -> bool:
    """True when both hold the same float32 bits in the same shape. Raises like `Tensor.values`."""
    if one.shape != other.shape:
        return False
    num_rows, *rest = one.shape or (1,)
    count = max(1, _COMPARED_VALUES // max(1, math.prod(rest)))

    def bits(tensor: Tensor, first: int) -> NDArray[np.uint32]:
        return tensor.values(first, min(count, num_rows - first)).view(np.uint32)

    firsts = range(0, num_rows, count)
    return all(np.array_equal(bits(one, first), bits(other, first)) for first in firsts)


def require_finite(values: NDArray[np.float32], name: str, path: Path, first_row: int = 0) -> None:
    """Raise ModelFileError naming the tensor and the place of a value that is not finite.

    `values` are rows of the tensor from `first_row` on.
    """
    # min and max carry a NaN through and need no second array of the tensor's size
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        row, *others = np.unravel_index(first, values.shape) or (0,)
        place = ", ".join(map(str, (first_row + row, *others)))
        reason = f"tensor '{name}' holds {values.flat[first]} at [{place}]"
        raise ModelFileError(path, None, reason, hint=_HINT)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by name, in the file's order.

    Raises ModelFileError for anything the safetensors library refuses.
    """
    shapes = _validated_shapes(path)
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = parse_object(file.read(header_bytes).decode("utf-8"), path)
        size = os.fstat(file.fileno()).st_size
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, end = entry["data_offsets"]
        tensor = StoredTensor(
            name, entry["dtype"], tuple(entry["shape"]), path, 8 + header_bytes + first, end - first
        )
        if shapes.get(name) != (tensor.dtype, tensor.shape) or 8 + header_bytes + end > size:
            raise _changed(path, name)
        tensors[name] = tensor
    return tensors


def _validated_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (str(part.get_dtype()), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        reason = f"not a sound safetensors file: {error}"
        raise ModelFileError(path, None, reason, hint=_HINT) from None


def _changed(path: Path, name: str) -> ModelFileError:
    return ModelFileError(path, None, f"tensor '{name}' changed while it was read", hint=_HINT)


def _widened(raw: NDArray[np.generic]) -> NDArray[np.float32]:
    if raw.dtype != np.uint16:
        return raw.astype(np.float32, copy=False)
    bits = raw.astype(np.uint32)
    bits <<= 16  # bfloat16 is the upper half of a float32
    return bits.view(np.float32)

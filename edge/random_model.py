"""A model file of a known shape with random weights: as fast as the real one, and as useless."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from edge import _native
from edge.formats import keys
from edge.formats.groups import Layout, layout_for, own_layouts
from edge.shapes import ROUTER, Shape

_VALUE_TYPES = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
}
_ALIGNMENT = 32
_ELEMENTS = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32, bool: GGUFValueType.BOOL}
# So many weights are drawn, in an odd number of groups, and repeated.
_NUM_DRAWN = 1 << 21


def tensor_bytes(name: str, size: tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor whose matrices are stored as ``kind``; vectors and routers are f32."""
    return math.prod(size[:-1]) * _layout(name, size, kind).row_bytes(size[-1])


def weight_bytes(shape: Shape, kind: str) -> int:
    """Bytes of all tensors."""
    return sum(tensor_bytes(name, size, kind) for name, size in shape.tensors())


def write_random_model(
    path: Path,
    shape: Shape,
    kind: str,
    advance: Callable[[int], None] = lambda _: None,
    more_keys: Mapping[str, int | float | str] = MappingProxyType({}),
    architecture: str | None = None,
) -> None:
    """Write a GGUF file with matrices of type ``kind``; ``advance`` gets each tensor's bytes.

    The weights of a shape and type are always the same. ``architecture`` is what the file calls
    it instead of the shape's own. Takes about 25 MiB of memory whatever the shape. Raises OSError.
    """
    _write_header(path, shape, kind, more_keys, architecture or shape.architecture)
    with path.open("ab") as file:
        _pad(file)
        for name, size in shape.tensors():
            num_bytes = tensor_bytes(name, size, kind)
            _repeat(file, _content(name, size, kind), num_bytes)
            _pad(file)
            advance(num_bytes)


def _write_header(
    path: Path,
    shape: Shape,
    kind: str,
    more_keys: Mapping[str, int | float | str],
    architecture: str,
) -> None:
    writer = GGUFWriter(path, architecture)
    for key, value in {**_metadata(shape), **more_keys}.items():
        writer.add_key_value(key.format(arch=architecture), value, _VALUE_TYPES[type(value)])
    for key, values in own_layouts(_stored(shape, kind)).items():
        writer.add_key_value(key, values, GGUFValueType.ARRAY, _ELEMENTS[type(values[0])])
    for name, size in shape.tensors():
        layout, num_bytes = _layout(name, size, kind), tensor_bytes(name, size, kind)
        stored = GGMLQuantizationType["I8" if layout.is_own else layout.type.upper()]
        name, size = layout.stored_name(name), layout.stored_shape(size)
        writer.add_tensor_info(name, size, np.dtype(np.float32), num_bytes, stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _metadata(shape: Shape) -> dict[str, int | float]:
    return {
        **(shape.experts.keys() if shape.experts else {}),
        keys.CONTEXT_LENGTH: shape.context_length,
        keys.HIDDEN_SIZE: shape.hidden_size,
        keys.NUM_LAYERS: shape.num_layers,
        keys.FEED_FORWARD_SIZE: shape.feed_forward_size,
        keys.NUM_HEADS: shape.num_heads,
        keys.NUM_KV_HEADS: shape.num_kv_heads,
        keys.HEAD_DIM: shape.head_dim,
        keys.VALUE_DIM: shape.head_dim,
        keys.RMS_NORM_EPS: 1e-6,
        keys.MASK_TOKEN_ID: 0,
    }


def _layout(name: str, size: tuple[int, ...], kind: str) -> Layout:
    is_float = len(size) == 1 or name.endswith(ROUTER)
    layout = layout_for("f32" if is_float else kind, size[-1])
    assert layout is not None, "every known shape's columns are whole groups"
    return layout


def _stored(shape: Shape, kind: str) -> Iterator[tuple[str, int, Layout]]:
    for name, size in shape.tensors():
        yield name, size[-1], _layout(name, size, kind)


def _content(name: str, size: tuple[int, ...], kind: str) -> memoryview:
    """What is repeated until the tensor is full."""
    return _ones(size) if len(size) == 1 else _random_block(_layout(name, size, kind))


@lru_cache(maxsize=4)
def _random_block(layout: Layout) -> memoryview:
    group = max(32, layout.group_size)
    size = (_NUM_DRAWN // group | 1, group)
    values = np.random.default_rng(0).standard_normal(size, np.float32) * np.float32(0.02)
    return _native.quantize(layout.type, values, *layout.choices).reshape(-1).data


def _ones(size: tuple[int, ...]) -> memoryview:
    return memoryview(np.ones(size, np.float32).tobytes())


def _repeat(file: BinaryIO, block: memoryview, num_bytes: int) -> None:
    while num_bytes > 0:
        num_bytes -= file.write(block[:num_bytes])


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))

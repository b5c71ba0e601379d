"""A model file of a known shape with random weights: as fast as the real one, and as useless."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from edge import _native
from edge.formats import keys
from edge.shapes import Shape

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")

_ALIGNMENT = 32
_GROUP = 32  # a whole number of stored groups in every type
# So many groups are drawn and repeated; a prime number, so that rows differ.
_NUM_GROUPS = 65_521


def tensor_bytes(size: tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor whose matrices are stored as ``kind``; vectors are f32."""
    values = math.prod(size)
    return values * 4 if len(size) == 1 else values // _GROUP * _group_bytes(kind)


def weight_bytes(shape: Shape, kind: str) -> int:
    """Bytes of all tensors."""
    return sum(tensor_bytes(size, kind) for _, size in shape.tensors())


def write_random_model(
    path: Path, shape: Shape, kind: str, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Write a GGUF file with matrices of type ``kind``; ``advance`` gets each tensor's bytes.

    Takes about 25 MiB of memory whatever the shape. Raises OSError.
    """
    _write_header(path, shape, kind)
    block = _random_block(kind)
    with path.open("ab") as file:
        _pad(file)
        for _, size in shape.tensors():
            num_bytes = tensor_bytes(size, kind)
            _repeat(file, block if len(size) == 2 else _ones(size), num_bytes)
            _pad(file)
            advance(num_bytes)


def _write_header(path: Path, shape: Shape, kind: str) -> None:
    writer = GGUFWriter(path, shape.architecture)
    for key, value in _metadata(shape).items():
        value_type = GGUFValueType.FLOAT32 if isinstance(value, float) else GGUFValueType.UINT32
        writer.add_key_value(key.format(arch=shape.architecture), value, value_type)
    for name, size in shape.tensors():
        stored = GGMLQuantizationType["F32" if len(size) == 1 else kind.upper()]
        num_bytes = tensor_bytes(size, kind)
        writer.add_tensor_info(name, size, np.dtype(np.float32), num_bytes, stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _metadata(shape: Shape) -> dict[str, int | float]:
    return {
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


def _group_bytes(kind: str) -> int:
    return _native.quantize(kind, np.zeros((1, _GROUP), np.float32)).size


def _random_block(kind: str) -> memoryview:
    values = np.random.default_rng(0).standard_normal((_NUM_GROUPS, _GROUP), np.float32)
    return _native.quantize(kind, values * np.float32(0.02)).reshape(-1).data


def _ones(size: tuple[int, ...]) -> memoryview:
    return memoryview(np.ones(size, np.float32).tobytes())


def _repeat(file: BinaryIO, block: memoryview, num_bytes: int) -> None:
    while num_bytes > 0:
        num_bytes -= file.write(block[:num_bytes])


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))

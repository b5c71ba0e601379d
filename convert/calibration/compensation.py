"""Rows of weights rounded one column after the other, each error made good by later columns.

Frantar et al., "GPTQ" (arXiv:2210.17323), on the types of this package: the scale of a group is
searched when its turn comes, over the weights as they then are, and an error counts as much as it
costs after all later columns have done their best about it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge import _native
from edge.formats.groups import Layout

_BATCH = 128  # columns rounded before the rest learns of it; whole groups


def round_compensated(
    values: NDArray[np.float32], layout: Layout, factors: Sequence[NDArray[np.float32]]
) -> NDArray[np.uint8]:
    """`values` [rows, cols] as int8 or int4 bytes [rows, row_bytes].

    `factors` are those of `Moments.factors`, of blocks that make up the columns.
    """
    parts, scales = [], None
    if layout.group_size == values.shape[1] > _BATCH:  # of int8: one scale for all of a row
        scales, stored = _row_scales(values)
        parts.append(stored)
    first = 0
    for factor in factors:
        block = np.array(values[:, first : first + len(factor)])
        parts += _block(block, layout, factor, scales)
        first += len(factor)
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def _block(
    left: NDArray[np.float32],
    layout: Layout,
    factor: NDArray[np.float32],
    scales: NDArray[np.float32] | None,
) -> list[NDArray[np.uint8]]:
    """The bytes of a block's columns, batch after batch; `left` is changed."""
    parts = []
    for first in range(0, len(factor), _BATCH):
        batch = slice(first, min(first + _BATCH, len(factor)))
        rest = slice(batch.stop, None)
        stored, errors = _native.quantize_compensated(
            layout.type,
            np.ascontiguousarray(left[:, batch]),
            np.ascontiguousarray(factor[batch, batch]),
            *layout.choices,
            scales=scales,
        )
        left[:, rest] -= errors @ factor[batch, rest]
        parts.append(stored)
    return parts


def _row_scales(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The scale of each row [rows], as stored, and its bytes [rows, 2]."""
    halves = (np.abs(values).max(axis=1) / np.float32(127)).astype("<f2")
    return halves.astype(np.float32), halves[:, None].view(np.uint8)


def read_back(values: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """`values` [rows, cols] as they are when rounded to nearest, for comparison."""
    stored = _native.quantize(layout.type, values, *layout.choices)
    return _native.dequantize(layout.type, stored, values.shape[1], *layout.choices)

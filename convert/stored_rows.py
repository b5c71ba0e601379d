"""Rows of a model file's tensor, as the runtime reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import _native
from edge.errors import ModelFileError


def read_rows(
    path: Path,
    place: int,
    count: int,
    row_bytes: int,
    type: str,
    cols: int,
    group_size: int,
    has_minima: bool,
) -> NDArray[np.float32]:
    """[count, cols] from byte `place` on; the last two say more of our own types.

    They are read, not mapped: mapped pages count as memory of this process, and a mapped file that
    shrinks meanwhile kills it. Raises ModelFileError for one that did.
    """
    stored = np.fromfile(path, np.uint8, count * row_bytes, offset=place)
    if len(stored) < count * row_bytes:
        reason = "the file became shorter while it was read"
        raise ModelFileError(path, place, reason, hint="convert again")
    rows = stored.reshape(count, row_bytes)
    return _native.dequantize(type, rows, cols, group_size, has_minima)

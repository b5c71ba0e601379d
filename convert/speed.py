"""What this machine could do at best with the input of a conversion."""

from __future__ import annotations

import time

import numpy as np

from convert.source import Source

_COPY_BYTES = 64 << 20
_READ_BYTES = 256 << 20
_PIECE_BYTES = 8 << 20


def machine_speed(source: Source) -> tuple[float, float]:
    """MB per second of a copy in memory, and of reading the source; twice each, the better."""
    return max(_copy_rate(), _copy_rate()), max(_read_rate(source), _read_rate(source))


def _copy_rate() -> float:
    source = np.ones(_COPY_BYTES // 8)
    target = np.empty_like(source)
    target.fill(0)  # its pages exist now
    begun = time.perf_counter()
    np.copyto(target, source)
    return _COPY_BYTES / 1e6 / (time.perf_counter() - begun)


def _read_rate(source: Source) -> float:
    left, done, begun = _READ_BYTES, 0, time.perf_counter()
    for path in source.weight_files:
        with path.open("rb", buffering=0) as file:
            while left > 0 and (piece := file.read(min(left, _PIECE_BYTES))):
                left -= len(piece)
                done += len(piece)
    return done / 1e6 / max(1e-9, time.perf_counter() - begun)

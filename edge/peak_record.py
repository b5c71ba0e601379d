"""The best int8 peak that this machine has shown, kept in the cache folder.

Figures are shares of the peak of their own run; where a run's peak is itself far below what the
machine can do, something else had the cores or the power, and its shares say little.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from edge.cache_folder import cache_folder
from edge.formats.atomic_file import replacing

SCHEMA = 1
LEAST_SHARE = 0.9  # of the best peak; a run with less is void

_LARGEST_FILE = 1 << 20
_MOST_GOPS = 1e7
_log = logging.getLogger(__name__)


def best_peak(cpu: str, isa: str, threads: int, gops: float) -> float:
    """Return the best peak of these, in 10^9 operations a second; ``gops`` is the newest one."""
    peaks = _read()
    key = f"{cpu}, {isa}, {threads}"
    best = max(gops, peaks.get(key, 0.0))
    if best > peaks.get(key, 0.0):
        _write({**peaks, key: best})
    return best


def _file() -> Path:
    return cache_folder() / "peaks.json"


def _read() -> dict[str, float]:
    """What is recorded; nothing where that cannot be trusted."""
    try:
        if _file().stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large")
        stored = json.loads(_file().read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
            raise ValueError("it has another schema")
        peaks = {str(key): float(gops) for key, gops in dict(stored.get("peaks", {})).items()}
        if not all(math.isfinite(gops) and 0 < gops < _MOST_GOPS for gops in peaks.values()):
            raise ValueError("it holds what is no rate")
        return peaks
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as problem:
        _log.warning("the recorded peaks in %s are ignored: %s", _file(), problem)
        return {}


def _write(peaks: dict[str, float]) -> None:
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_file()) as partial:
            partial.write_text(json.dumps({"schema": SCHEMA, "peaks": peaks}), encoding="utf-8")
    except OSError as problem:
        _log.info("the peak is not recorded: %s", problem)

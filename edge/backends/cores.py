"""How many threads to use when nobody says: the cores that are worth having and ours to use."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

# Every parallel region ends with its slowest thread, so a core must be nearly as fast as the
# fastest. A capacity is measured speed; a highest frequency says less of it, since a small core
# does less per cycle too.
_BIG_BY_CAPACITY = 0.6
_BIG_BY_FREQUENCY = 0.8


def default_threads(root: Path = Path("/")) -> int:
    """Count the big physical cores of this process's affinity and CPU quota.

    ``root`` is where ``sys`` and ``proc`` are. Where they say nothing, as on macOS, all physical
    cores count.
    """
    cpus = root / "sys/devices/system/cpu"
    big = _big(cpus, _allowed())
    cores = {_core(cpus, cpu) for cpu in big}
    count = len(big) if None in cores else len(cores)
    if None in cores:
        count = min(count, psutil.cpu_count(logical=False) or count)
    return max(1, int(min(count, _quota(root))))


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _big(cpus: Path, allowed: set[int]) -> set[int]:
    """Those that are nearly as fast as the fastest of ``allowed``; all, where nothing tells."""
    for file, share in (
        ("cpu_capacity", _BIG_BY_CAPACITY),
        ("cpufreq/cpuinfo_max_freq", _BIG_BY_FREQUENCY),
    ):
        speeds = {cpu: _number(cpus / f"cpu{cpu}" / file) for cpu in allowed}
        known = [speed for speed in speeds.values() if speed]
        if len(known) == len(speeds) and len(set(known)) > 1:
            return {cpu for cpu, speed in speeds.items() if speed and speed >= share * max(known)}
    return allowed


def _core(cpus: Path, cpu: int) -> str | None:
    """What the hardware threads of one core have in common."""
    for name in ("core_cpus_list", "thread_siblings_list"):
        siblings = _text(cpus / f"cpu{cpu}" / "topology" / name)
        if siblings:
            return siblings
    return None


def _quota(root: Path) -> float:
    """Cores that the control groups above this process grant, the tightest of them counting."""
    lines = _text(root / "proc/self/cgroup").splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    mount = root / "sys/fs/cgroup"
    folder = mount / own.strip("/")
    granted = [_granted(folder / "cpu.max")]
    while folder != mount and mount in folder.parents:
        folder = folder.parent
        granted.append(_granted(folder / "cpu.max"))
    return min(granted)


def _granted(file: Path) -> float:
    """``cpu.max`` holds microseconds and the period they are of, or ``max`` and the period."""
    words = _text(file).split()
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        return math.inf
    return int(words[0]) / int(words[1])


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

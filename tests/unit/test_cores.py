"""The default number of threads, from folders that look like other machines' /sys and /proc."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edge.backends.cores import default_threads

Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """``machine(capacity=[..], max_freq=[..], siblings=[..])``: one entry per logical core."""

    def make(count: int, allowed: set[int] | None = None, **facts: list[object]) -> Path:
        files = {
            "capacity": "cpu_capacity",
            "max_freq": "cpufreq/cpuinfo_max_freq",
            "siblings": "topology/core_cpus_list",
            "old_siblings": "topology/thread_siblings_list",
        }
        for name, values in facts.items():
            for cpu, value in enumerate(values):
                write(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/{files[name]}", f"{value}\n")
        affinity = allowed or set(range(count))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity, raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: count)
        monkeypatch.setattr(psutil, "cpu_count", lambda **_: count)
        return tmp_path

    return make


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


ALONE = [*range(8)]
PAIRS = ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"]


def test_all_of_four_equal_cores(machine: Machine) -> None:
    facts = {"capacity": [1024] * 4, "max_freq": [2_400_000] * 4, "siblings": [0, 1, 2, 3]}
    assert default_threads(machine(4, **facts)) == 4


def test_big_cores_by_capacity(machine: Machine) -> None:
    capacity = [406, 406, 406, 406, 1024, 1024, 1024, 1024]
    assert default_threads(machine(8, capacity=capacity, siblings=ALONE)) == 4


def test_a_prime_core_does_not_make_big_ones_small(machine: Machine) -> None:
    capacity = [250, 250, 250, 250, 820, 820, 820, 1024]
    assert default_threads(machine(8, capacity=capacity, siblings=ALONE)) == 4


def test_big_cores_by_frequency_when_capacity_is_unknown_or_equal(machine: Machine) -> None:
    max_freq = [1_800_000] * 4 + [2_400_000] * 4
    assert default_threads(machine(8, max_freq=max_freq, siblings=ALONE)) == 4
    same = [1024] * 8
    assert default_threads(machine(8, capacity=same, max_freq=max_freq, siblings=ALONE)) == 4


def test_cores_that_turbo_differently_are_all_big(machine: Machine) -> None:
    max_freq = [5_200_000, 5_200_000, 5_400_000, 5_400_000]
    assert default_threads(machine(4, max_freq=max_freq, siblings=[0, 1, 2, 3])) == 4


@pytest.mark.parametrize("topology", ["siblings", "old_siblings"])
def test_hardware_threads_of_one_core_count_once(machine: Machine, topology: str) -> None:
    assert default_threads(machine(8, **{topology: PAIRS})) == 4


def test_a_hybrid_with_hardware_threads_on_big_cores_only(machine: Machine) -> None:
    max_freq = [5_000_000] * 4 + [3_800_000] * 4
    siblings = ["0-1", "0-1", "2-3", "2-3", 4, 5, 6, 7]
    assert default_threads(machine(8, max_freq=max_freq, siblings=siblings)) == 2


@pytest.mark.parametrize(("allowed", "wanted"), [({0}, 1), ({0, 4}, 1), ({0, 1}, 2), ({1, 6}, 2)])
def test_only_cores_of_the_affinity(machine: Machine, allowed: set[int], wanted: int) -> None:
    assert default_threads(machine(8, allowed, siblings=PAIRS)) == wanted


def test_small_cores_when_there_are_no_others(machine: Machine) -> None:
    capacity = [406, 406, 406, 406, 1024, 1024, 1024, 1024]
    root = machine(8, {0, 1, 2}, capacity=capacity, siblings=ALONE)
    assert default_threads(root) == 3


def test_physical_cores_where_the_system_says_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine(8)
    assert default_threads(root) == 8
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    assert default_threads(root) == 4
    monkeypatch.setattr(psutil, "cpu_count", lambda **_: None)
    assert default_threads(root) == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    assert default_threads(root) == 8


@pytest.mark.parametrize(
    ("cpu_max", "wanted"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("6400000 100000", 8),
        ("", 8),
        ("0 0", 8),
        ("two threads", 8),
        ("100000", 8),
    ],
)
def test_a_quota_limits(machine: Machine, cpu_max: str, wanted: int) -> None:
    root = machine(8, siblings=ALONE)
    write(root / "proc/self/cgroup", "0::/user.slice/app\n")
    write(root / "sys/fs/cgroup/user.slice/app/cpu.max", cpu_max)
    assert default_threads(root) == wanted


def test_the_tightest_quota_above_counts(machine: Machine) -> None:
    root = machine(8, siblings=ALONE)
    write(root / "proc/self/cgroup", "4:memory:/elsewhere\n0::/a/b\n")
    write(root / "sys/fs/cgroup/a/b/cpu.max", "max 100000")
    write(root / "sys/fs/cgroup/a/cpu.max", "300000 100000")
    write(root / "sys/fs/cgroup/cpu.max", "500000 100000")
    assert default_threads(root) == 3


def test_the_quota_of_a_container_is_at_the_top(machine: Machine) -> None:
    root = machine(8, siblings=ALONE)
    write(root / "proc/self/cgroup", "0::/../../elsewhere\n")
    write(root / "sys/fs/cgroup/cpu.max", "100000 100000")
    assert default_threads(root) == 1


def test_this_machine() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)

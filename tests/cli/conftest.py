"""How the tests start the program: mostly in this process, as its own when that matters."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from edge import _native
from edge.cli import bench, main


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str


Edge = Callable[..., Ended]  # edge("run", ..., stdin=b"...", EDGE_SEED="1")


@pytest.fixture(autouse=True)
def _nothing_steers_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    steering = ("EDGE_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_")
    for name in os.environ:
        if name.startswith(steering):
            monkeypatch.delenv(name)


# Most of a short benchmark is measuring the machine; once is enough.
_measured_peak = cache(_native.measure_peak)


@pytest.fixture(autouse=True)
def _the_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "measure_peak", _measured_peak)
    monkeypatch.setattr(bench, "IDLE_SECONDS", 0.01)


@pytest.fixture
def edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Edge:
    """The command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str | bytes, stdin: bytes = b"", **environment: str) -> Ended:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            code = main([os.fsdecode(arg) for arg in args])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def edge_process(tmp_path: Path) -> Edge:
    """The program as a process of its own, in an empty folder."""

    def run(*args: str | bytes, stdin: int | None = subprocess.DEVNULL) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-m", "edge", *args],
            stdin=stdin,
            capture_output=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return run

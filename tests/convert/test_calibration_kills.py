"""Calibrations that are killed: nothing is torn, and the next run goes on."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convert import convert as run

Golden = Callable[[str], Path]

STEPS = """
import os, signal, sys
import convert
number = int(sys.argv[4])
def progress(stage, done, total):
    if (stage, done) == (sys.argv[3], number):
        os.kill(os.getpid(), signal.SIGKILL)
convert.convert(sys.argv[1], sys.argv[2], "int4", force=True, progress=progress)
"""


def test_a_killed_calibration_goes_on(golden: Golden, tmp_path: Path) -> None:
    source, out = golden("llada"), tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    wanted = run(source, tmp_path / "whole.gguf", "int4").sha256
    for stage, number in (("copy", 0), ("calibrate", 1)):
        command = [sys.executable, "-c", STEPS, str(source), str(out), stage, str(number)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not out.exists()
        assert [path.name for path in out.parent.iterdir() if ".partial." not in path.name] == [
            ".model.gguf.unfinished"
        ]
    stages = []
    run(source, out, "int4", progress=lambda stage, *_: stages.append(stage))
    assert "copy" not in stages  # that was done
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert digest == wanted
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_another_job_does_not_go_on(golden: Golden, tmp_path: Path) -> None:
    source, out = golden("llada"), tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    command = [sys.executable, "-c", STEPS, str(source), str(out), "calibrate", "1"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    other = run(source, out, "int4", seed=1).sha256
    assert other == run(source, tmp_path / "whole.gguf", "int4", seed=1).sha256
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.slow
def test_kills_at_random_moments_of_a_calibration(golden: Golden, tmp_path: Path) -> None:
    source, out = golden("llada"), tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    wanted = run(source, tmp_path / "whole.gguf", "int4").sha256
    command = [sys.executable, "-c", STEPS, str(source), str(out), "never", "0"]
    random, finished = np.random.default_rng(6), 0
    begun = time.monotonic()
    assert subprocess.run(command).returncode == 0
    seconds = time.monotonic() - begun
    for _ in range(60):
        process = subprocess.Popen(command)
        time.sleep(random.uniform(0, seconds))
        process.kill()
        finished += process.wait() == 0
        if out.exists():
            assert hashlib.sha256(out.read_bytes()).hexdigest() == wanted
    assert finished < 60
    run(source, out, "int4", force=True)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == wanted
    assert [path.name for path in out.parent.iterdir()] == [out.name]


# Forks calibrations; each goes on where the last one was killed, and is killed before a later one
# of the changes that it makes to the disk.
AT_EACH_WRITE = """
import hashlib, os, shutil, signal, sys
from pathlib import Path
import convert, convert.pipeline, convert.calibration.run, edge

source, out, wanted = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"}
left = 0

def hook(event, arguments):
    global left
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
    if event in CHANGES or writes:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def child(kill_at):
    global left
    pid = os.fork()
    if pid == 0:
        left = kill_at
        sys.addaudithook(hook)
        convert.convert(source, out, "int8", force=True, threads=1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def is_whole():
    return hashlib.sha256(out.read_bytes()).hexdigest() == wanted

kills = 0
while status := child(kills + 1):
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
    assert not out.exists() or is_whole(), f"torn by kill {kills}"
assert is_whole()
assert [path.name for path in out.parent.iterdir()] == [out.name]
print(kills)
"""


@pytest.mark.slow
def test_a_kill_at_each_write_of_a_calibration(golden: Golden, tmp_path: Path) -> None:
    source, out = golden("llada"), tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    wanted = run(source, tmp_path / "whole.gguf", "int8").sha256
    command = [sys.executable, "-c", AT_EACH_WRITE, str(source), str(out), str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30

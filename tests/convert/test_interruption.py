"""A conversion that is killed, stopped or starved of disk leaves the target absent or whole."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Make = Callable[..., Any]  # conftest.folder
Golden = Callable[[str], Path]

# Forks conversions of one checkpoint and kills each at a random moment of its life.
KILLER = """
import hashlib, json, os, random, signal, sys, time
from pathlib import Path
import convert.pipeline, convert.verify, convert.writers.gguf
from convert import convert as run

source, out, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
types = ("q8_0", "f32")

def start(kind):
    pid = os.fork()
    if pid == 0:
        run(source, out, kind, force=True)
        os._exit(0)
    return pid

def digest():
    return hashlib.sha256(out.read_bytes()).hexdigest() if out.exists() else None

begun = time.monotonic()
whole = set()
for kind in types:
    os.waitpid(start(kind), 0)
    whole.add(digest())
seconds = (time.monotonic() - begun) / len(types)
out.unlink()

random.seed(20)
killed = partials = 0
for attempt in range(kills):
    before = digest()
    pid = start(types[attempt % 2])
    time.sleep(random.uniform(0, seconds))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    killed += os.WIFSIGNALED(status)
    partials += any(".partial." in path.name for path in out.parent.iterdir())
    after = digest()
    assert after in whole or (after is None and before is None), "the target is torn"
assert os.waitpid(start("q8_0"), 0)[1] == 0
print(json.dumps([killed, partials, sorted(path.name for path in out.parent.iterdir())]))
"""


def kill_conversions(made: Any, out: Path, kills: int) -> tuple[int, int]:
    out.parent.mkdir()
    command = [sys.executable, "-c", KILLER, str(made.write()), str(out), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed, partials, left = json.loads(done.stdout)
    assert left == [out.name]
    return killed, partials


@pytest.mark.slow
def test_kills_at_random_moments(folder: Make, tmp_path: Path) -> None:
    made = folder(d_model=128, mlp_hidden_size=384, n_layers=6)
    killed, partials = kill_conversions(made, tmp_path / "out" / "model.gguf", 50)
    assert killed > 0
    assert partials > 0  # some were killed while they wrote


STOPPER = """
import os, signal, sys
import convert.cli

real, number = convert.cli.convert, int(sys.argv.pop())

def interrupted(*args, **options):
    def progress(stage, done, total):
        if stage == "write" and done:
            os.kill(os.getpid(), number)
    return real(*args, **options | {"progress": progress})

convert.cli.convert = interrupted
convert.cli.main()
"""


@pytest.mark.parametrize(
    ("number", "code", "what"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by SIGTERM")],
)
@pytest.mark.parametrize("old", [None, b"old"])
def test_signals_leave_no_partial_file(
    golden: Golden, tmp_path: Path, number: signal.Signals, code: int, what: str, old: bytes | None
) -> None:
    source, out = golden("llada"), tmp_path / "out.gguf"
    if old:
        out.write_bytes(old)
    report = tmp_path / "report.json"
    args = [str(source), str(out), "--force", "--report", str(report), str(int(number))]
    done = subprocess.run(
        [sys.executable, "-c", STOPPER, *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert done.stderr == f"edge-convert: error: {what}\n"
    kept = ["out.gguf"] if old else []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llada", *kept]
    if old:
        assert out.read_bytes() == old


@pytest.mark.parametrize("limit_bytes", [0, 100, 5000, 100_000, 180_000])
def test_a_file_size_limit_keeps_the_old_file(
    golden: Golden, tmp_path: Path, limit_bytes: int
) -> None:
    source, out = golden("llada"), tmp_path / "out.gguf"
    out.write_bytes(b"old")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    command = [sys.executable, "-m", "convert", source, out, "--force"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 70
    assert done.stderr.count("\n") == 1
    assert "file too large" in done.stderr
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llada", "out.gguf"]


def test_a_read_only_folder_is_one_line(golden: Golden, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    source, locked = golden("llada"), tmp_path / "locked"
    locked.mkdir(mode=0o500)
    command = [sys.executable, "-m", "convert", source, locked / "out.gguf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert done.stderr.count("\n") == 1
    assert "permission denied" in done.stderr

"""How a run ends that does not end by itself: Ctrl-C, SIGTERM, closed pipes, full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("slow_program.py")
MANY = "500"  # words: ten seconds, which no test waits for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@contextmanager
def started(*args: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``edge run ARGS`` with the slow denoiser; kill it if the test fails."""
    streams: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    process = subprocess.Popen([sys.executable, PROGRAM, "run", *args], **{**streams, **options})
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def outcome(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, err = process.communicate(timeout=20)
    return process.returncode, err.decode()


def read_some(process: subprocess.Popen[bytes]) -> bytes:
    """Return what the process has written, as soon as it is anything."""
    assert process.stdout is not None
    return os.read(process.stdout.fileno(), 65536)


def test_a_pipe_gets_the_text_as_it_is_committed() -> None:
    with started("20") as process:
        first = read_some(process)
        assert process.poll() is None
        rest, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
    assert (first + rest).decode() == "".join(f"wörd{i} " for i in range(20)) + "\n"


def test_ctrl_c_prints_the_partial_answer_and_exits_with_130() -> None:
    with started(MANY) as process:
        first = read_some(process)
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=20)
    words = (first + rest).decode().split()
    assert words == [f"wörd{i}" for i in range(len(words))]
    assert process.returncode == 130
    expected = f"edge: error: interrupted after {len(words)} steps - the answer is partial\n"
    assert err.decode() == expected


def test_ctrl_c_leaves_one_json_object() -> None:
    with started("announce", "--json", "--stats") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    answer = json.loads(out)
    assert process.returncode == 130
    assert (answer["schema"], answer["status"], answer["complete"]) == (1, "cancelled", False)
    assert answer["mean_confidence"] is None  # JSON knows no NaN


def test_a_second_ctrl_c_kills() -> None:
    with started("stubborn") as process:
        read_some(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline() == b"still here\n"
        process.send_signal(signal.SIGINT)
        assert outcome(process)[0] == -signal.SIGINT


def test_a_job_in_the_background_ignores_ctrl_c() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with started("20", preexec_fn=ignore) as process:
        read_some(process)
        process.send_signal(signal.SIGINT)
        assert outcome(process) == (0, "")


def test_sigterm_exits_with_143() -> None:
    with started(MANY) as process:
        read_some(process)
        process.terminate()
        assert outcome(process) == (143, "edge: error: stopped by SIGTERM\n")


@pytest.mark.parametrize("args", [(MANY,), (MANY, "-v"), ("3", "--json")])
def test_a_closed_pipe_is_silent(args: tuple[str, ...]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with started(*args, stdout=write_end) as process:
        os.close(write_end)
        assert outcome(process) == (141, "")


def test_a_pipe_that_closes_early_stops_the_generation() -> None:
    with started(MANY) as process:
        read_some(process)
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        assert outcome(process) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full, started("3", stdout=full) as process:
        assert outcome(process) == (70, "edge: error: no space left on device\n")


def test_a_closed_stdout_is_no_traceback() -> None:
    with started("3", preexec_fn=lambda: os.close(1)) as process:
        code, err = outcome(process)
    assert code == 0
    assert err == ""


def test_a_failure_in_the_middle_is_one_line() -> None:
    with started("broken") as process:
        assert outcome(process) == (70, "edge: error: blk.3.attn_q: not finite\n")


def test_a_failure_in_the_middle_has_a_traceback_that_reaches_its_cause() -> None:
    with started("broken", "--verbose") as process:
        code, err = outcome(process)
    assert code == 70
    assert "slow_program.py" in err
    assert err.splitlines()[-1] == "edge: error: blk.3.attn_q: not finite"

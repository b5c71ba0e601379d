"""llama.cpp as a peer to compare with: what another engine takes for the same forward.

It runs in a process of its own (``llama_process.py``), which waits on a pipe while it has nothing
to do and ends when this one does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import EdgeError, RequestError, UnsupportedModelError

# How its threads wait for each other: asleep, or spinning for a few milliseconds first, which is
# faster on an idle machine and much slower on a busy one.
WAIT_POLICIES = ("default", "passive")

_PROGRAM = Path(__file__).with_name("llama_process.py")
_POLICY_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1"}  # no debugger is started when it aborts


@dataclass(frozen=True)
class PeerTimes:
    """Milliseconds of a forward; ``head_ms`` of its head, if that was asked for."""

    step_ms: float
    head_ms: float | None


def check_llama() -> None:
    """Raise RequestError when llama-cpp-python is missing."""
    if find_spec("llama_cpp") is None:
        hint = "pip install 'edge-denoise[llama]'"
        raise RequestError("llama-cpp-python is not installed", hint=hint)
    if not sys.executable or getattr(sys, "frozen", False):
        raise RequestError("there is no Python to run llama.cpp with", hint="use one from a venv")


class LlamaPeer:
    """A model file that llama.cpp has loaded; ``close`` ends its process."""

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        capacity: int,
        rows: int,
        threads: int,
        by_part: bool = False,
        wait_policy: str = "passive",
    ) -> None:
        """Have it load ``file``, with arguments as of ``llama_process.Llama``.

        Raises RequestError, UnsupportedModelError for a file that llama.cpp refuses, EdgeError
        when it ends of itself, as every other method does.
        """
        check_llama()
        self.wait_policy = wait_policy
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by ``close``
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(wait_policy),
        )
        try:
            room = {"capacity": capacity, "rows": rows, "threads": threads, "by_part": by_part}
            about = self._ask({"path": sys.path, "file": os.fspath(file), **room})
        except BaseException:
            self.close()
            raise
        self.version: str = about["version"]
        self.system: str = about["system"]

    def store(self, ids: NDArray[np.int32]) -> None:
        """Cache keys and values of these ids and of nothing else."""
        self._ask({"store": ids.tolist()})

    def step(self, ids: NDArray[np.int32], head_rows: int, threads: int) -> PeerTimes:
        """Time a forward of ``ids`` behind what is stored, with logits of the first so many."""
        request = {"step": ids.tolist(), "head_rows": head_rows, "threads": threads}
        return PeerTimes(**self._ask(request))

    def close(self) -> None:
        """End the process; may be called twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with suppress(BrokenPipeError):  # of what it was never told
                    stream.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise UnsupportedModelError(f"llama.cpp: {answer['refused']}")
        return answer

    def _ended(self) -> EdgeError:
        code = self._process.wait()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last_words = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        return EdgeError(f"llama.cpp ended with {cause}: {last_words}")


def _environment(wait_policy: str) -> dict[str, str]:
    """This process's, with what the comparison decides."""
    kept = {name: value for name, value in os.environ.items() if name not in _POLICY_VARIABLES}
    policy = {} if wait_policy == "default" else {"OMP_WAIT_POLICY": wait_policy}
    return {**kept, **_ENVIRONMENT, **policy}


def thread_counts(most: int) -> Sequence[int]:
    """Numbers of threads worth trying: all of a few, else powers of two and ``most``."""
    if most <= 4:
        return range(1, most + 1)
    return sorted({1 << i for i in range(most.bit_length())} | {most})

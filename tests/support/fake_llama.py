"""Speaks as ``edge/backends/llama_process.py`` does, and computes nothing.

``FAKE_LLAMA`` says how it fares. A step takes 10 ms per row, three times that where its threads
sleep, half of it with two threads; 1 ms are the head's. Requests go to ``FAKE_LLAMA_LOG``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def answer(request: dict) -> dict:
    if "FAKE_LLAMA_LOG" in os.environ:
        with Path(os.environ["FAKE_LLAMA_LOG"]).open("a") as log:
            log.write(json.dumps(request) + "\n")
    if "step" not in request:
        return {}
    if fate == "abort":
        sys.stderr.write("ggml.c:1: GGML_ASSERT(sound) failed\n\n")
        sys.stderr.flush()
        os.abort()
    sleepy = os.environ.get("OMP_WAIT_POLICY") == "passive"
    step_ms = 10 * len(request["step"]) * (3 if sleepy else 1) / min(2, request["threads"])
    return {"step_ms": step_ms, "head_ms": 1.0 if by_part else None}


def send(fields: dict) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


fate = os.environ.get("FAKE_LLAMA")
by_part = json.loads(sys.stdin.readline())["by_part"]
if fate == "refuse":
    send({"refused": "it cannot load the file: no"})
    sys.exit()
send({"version": "0.0", "system": "CPU : FAKE = 1"})
for line in sys.stdin:
    send(answer(json.loads(line)))

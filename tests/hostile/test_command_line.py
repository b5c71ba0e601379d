"""Damaged files through the program itself: one line on stderr and the documented exit code."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

NUM_FILES = 50
DONE, BAD_FILE, UNSUPPORTED, NOT_FINITE = 0, 3, 4, 70


def damage(content: bytes, header_bytes: int, seed: int) -> bytes:
    """Cut, flip, overwrite or insert, mostly in the header."""
    choose = random.Random(seed)
    out = bytearray(content)
    at = choose.randrange(header_bytes if seed % 5 else len(out))
    kind = seed % 4
    if kind == 0:
        del out[at:]
    elif kind == 1:
        out[at] ^= 1 << choose.randrange(8)
    elif kind == 2:
        out[at : at + 8] = choose.choice([2**31 - 1, 2**32, 2**63, 2**64 - 1]).to_bytes(8, "little")
    else:
        out[at:at] = choose.randbytes(choose.randrange(1, 40))
    return bytes(out)


def run(path: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name[:5] != "EDGE_"}
    return subprocess.run(
        [sys.executable, "-m", "edge", *arguments, "-m", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        cwd=path.parent,
        check=False,
    )


@pytest.fixture(scope="module")
def damaged_files(
    small: bytes, take_apart: Callable[[bytes], Any], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    folder = tmp_path_factory.mktemp("damaged")
    apart = take_apart(small)
    apart.encode()
    paths = []
    for seed in range(NUM_FILES):
        paths.append(folder / f"{seed}.gguf")
        paths[-1].write_bytes(damage(small, apart.header_bytes, seed))
    return paths


SHOW = ["show"]
RUN = ["run", "--tokens", "1", "--threads", "1", "w1"]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "every"), [(SHOW, 3), (RUN, 1)], ids=["show", "run"])
def test_damaged_files(arguments: list[str], every: int, damaged_files: list[Path]) -> None:
    paths = damaged_files[::every]
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda path: run(path, arguments), paths))
    codes = set()
    for path, process in zip(paths, ended, strict=True):
        check_ending(path, process)
        codes.add(process.returncode)
    assert {DONE, BAD_FILE} <= codes


def check_ending(path: Path, process: subprocess.CompletedProcess[str]) -> None:
    told = f"{path.name} ended with {process.returncode}: {process.stderr}"
    assert process.returncode in (DONE, BAD_FILE, UNSUPPORTED, NOT_FINITE), told
    if process.returncode == DONE:
        assert process.stderr == "", told
        return
    lines = process.stderr.splitlines()
    assert len(lines) == 1, told
    assert lines[0].startswith("edge: error: "), told
    assert path.name in lines[0], told
    assert process.stdout == "", told
    if process.returncode == NOT_FINITE:
        assert "finite" in lines[0], told


def test_the_sound_file_runs(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(small)
    assert run(path, ["show"]).returncode == DONE
    ended = run(path, ["run", "--tokens", "2", "--no-live", "w1 w2"])
    assert (ended.returncode, ended.stderr) == (DONE, "")

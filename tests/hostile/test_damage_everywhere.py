"""Every truncation and every flipped header byte of a small file."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import edge

Write = Callable[[bytes], Path]
Run = Callable[[Path], edge.EdgeError | None]
Alarm = Callable[[float], None]


def test_every_truncation_is_refused(small: bytes, gguf: Any, write: Write, alarm: Alarm) -> None:
    path = write(small)
    last = gguf.tensors[-1]
    padding = -(len(gguf.data) - last.offset)
    end = len(small) + padding + unpadded_bytes(last)
    accepted = []
    for length in range(len(small) - 1, -1, -1):
        alarm(10)
        os.truncate(path, length)
        with suppress(edge.ModelFileError):
            edge.inspect(path)
            accepted.append(length)
            with edge.load(path, threads=1) as model:
                model.logits([0, 1])
    assert accepted == ([end] if end < len(small) else [])


def unpadded_bytes(tensor: Any) -> int:
    values = 1
    for size in tensor.dims:
        values *= size
    return int(values * 4 if tensor.type == 0 else values // 32 * 34)


@pytest.mark.slow
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_flipped_header_byte(
    flip: int, small: bytes, gguf: Any, write: Write, load_and_run: Run, alarm: Alarm
) -> None:
    gguf.encode()
    path = write(small)
    refused = 0
    unexpected = []
    with path.open("r+b", buffering=0) as file:
        for offset in range(gguf.header_bytes):
            alarm(10)
            os.pwrite(file.fileno(), bytes([small[offset] ^ flip]), offset)
            try:
                refused += load_and_run(path) is not None
            except Exception as error:
                unexpected.append((offset, error))
            os.pwrite(file.fileno(), small[offset : offset + 1], offset)
    assert unexpected == []
    assert refused > gguf.header_bytes / 3
    assert load_and_run(path) is None

"""Files with an adapter for masked rows that is not what the file's keys say."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated_model import Gated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge
from convert import convert

Write = Callable[[bytes], Path]
Run = Callable[[Path], edge.EdgeError | None]
A, B, MASK = "blk.1.ffn_up.gate_a.weight", "blk.1.ffn_up.gate_b.weight", "mask_embd.weight"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("gated")
    base, adapter = Gated.random(hidden=32, wide=32).write(folder)
    convert(base, folder / "model.gguf", "f32", gated_adapter=adapter)
    return (folder / "model.gguf").read_bytes()


@pytest.fixture
def file(content: bytes, take_apart: Callable[[bytes], Any]) -> Any:
    return take_apart(content)


def refusal(file: Any, write: Write, load_and_run: Run) -> str:
    error = load_and_run(write(file.encode()))
    assert error is not None
    return str(error)


def test_the_file_itself_runs(file: Any, write: Write, load_and_run: Run) -> None:
    assert load_and_run(write(file.encode())) is None


@pytest.mark.parametrize(
    ("name", "dims", "reason"),
    [
        (A, [16, 8], "8x16, the file's own keys need 8x32|has the rank 8"),
        (A, [128], "is 128, a matrix is wanted"),
        (B, [8, 16], "16x8, the file's own keys need 32x4"),
        (MASK, [16, 2], "2x16, the file's own keys need 32"),
    ],
)
def test_shapes(
    name: str, dims: list[int], reason: str, file: Any, write: Write, load_and_run: Run
) -> None:
    file.tensor(name).dims = dims
    message = refusal(file, write, load_and_run)
    assert name in message
    assert any(part in message for part in reason.split("|"))


@pytest.mark.parametrize("name", [A, B])
def test_half_an_update(name: str, file: Any, write: Write, load_and_run: Run) -> None:
    file.tensor(name).name = b"blk.1.ffn_up.other.weight"
    assert name in refusal(file, write, load_and_run)


def test_tensors_that_no_key_tells_of(file: Any, write: Write, load_and_run: Run) -> None:
    del file.keys[b"edge.gate.rank"]
    message = refusal(file, write, load_and_run)
    assert "does not use" in message
    assert "gate_a.weight" in message


def test_a_rank_beyond_the_key(file: Any, write: Write, load_and_run: Run) -> None:
    file.set("edge.gate.rank", "u32", 3)
    assert "has the rank 4, edge.gate.rank says at most 3" in refusal(file, write, load_and_run)


@pytest.mark.parametrize("attention", ["full", "block"])
def test_other_attention(attention: str, file: Any, write: Write, load_and_run: Run) -> None:
    file.set("diffusion.attention", "string", attention)
    assert "causal_context with gated rows" in refusal(file, write, load_and_run)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", [A, B, MASK])
def test_numbers_that_are_none(name: str, value: float, file: Any, write: Write) -> None:
    span = file.span(name)
    stored = struct.pack("<f", value) * ((span.stop - span.start) // 4)
    file.data = file.data[: span.start] + stored + file.data[span.stop :]
    path = write(file.encode())
    with edge.load(path, threads=1) as model, pytest.raises(edge.NumericError, match=r"layer|norm"):
        model.logits(np.array([3, 16, 16]), 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(rank=st.integers(0, 2**32 - 1), number=st.integers(0, 200), size=st.integers(0, 2**40))
def test_any_rank_and_any_size(
    rank: int,
    number: int,
    size: int,
    content: bytes,
    take_apart: Callable[[bytes], Any],
    write: Write,
    load_and_run: Run,
) -> None:
    file = take_apart(content)
    file.set("edge.gate.rank", "u32", rank)
    tensors = [tensor for tensor in file.tensors if b"gate_" in tensor.name]
    tensor = tensors[number % len(tensors)]
    tensor.dims = [*tensor.dims[:-1], size]
    load_and_run(write(file.encode()))

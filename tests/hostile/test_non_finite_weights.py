"""Weights that are not numbers: an error that names the place, never an answer, never a hang."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edge

Write = Callable[[bytes], Path]

# By tensor: where its numbers are first seen to be wrong.
PLACES = {
    "token_embd.weight": r"layer 0|the head's logits",
    "blk.0.attn_norm.weight": r"layer 0",
    "blk.0.attn_q.weight": r"layer 0",
    "blk.0.attn_k.weight": r"layer 0",
    "blk.0.attn_v.weight": r"layer 0",
    "blk.0.attn_output.weight": r"layer 0",
    "blk.0.ffn_norm.weight": r"layer 0|the final norm",
    "blk.0.ffn_gate.weight": r"layer 0|the final norm",
    "blk.0.ffn_up.weight": r"layer 0|the final norm",
    "blk.0.ffn_down.weight": r"layer 0|the final norm",
    "output_norm.weight": r"the final norm|the head",
    "output.weight": r"the head's logits",
}
VALUES = {"nan": math.nan, "inf": math.inf, "minus_inf": -math.inf}
F32 = 0


def poison(gguf: Any, name: str, value: float, *, everywhere: bool) -> None:
    """Write ``value`` over the scale of every group, or over every float; or only the first."""
    span = gguf.span(name)
    stored = bytearray(gguf.data[span])
    if gguf.tensor(name).type == F32:
        places, number = range(0, len(stored) - 3, 4), struct.pack("<f", value)
    else:
        places, number = range(0, len(stored) - 33, 34), struct.pack("<e", value)
    for at in places if everywhere else places[:1]:
        stored[at : at + len(number)] = number
    gguf.data = gguf.data[: span.start] + bytes(stored) + gguf.data[span.stop :]


def generate(model: edge.Model) -> edge.Result:
    return model.generate_ids([0, 1, 2], max_tokens=4, temperature=0.0)


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("kind", ["f32", "q8_0"])
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", PLACES)
def test_every_tensor(
    name: str,
    value: str,
    kind: str,
    activations: str,
    small_files: dict[str, bytes],
    take_apart: Callable[[bytes], Any],
    write: Write,
) -> None:
    gguf = take_apart(small_files[kind])
    poison(gguf, name, VALUES[value], everywhere=True)
    path = write(gguf.encode())
    with (
        edge.load(path, threads=1, activations=activations) as model,
        pytest.raises(edge.NumericError, match=PLACES[name]) as caught,
    ):
        generate(model)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
@pytest.mark.parametrize("name", sorted(set(PLACES) - {"output.weight"}))
def test_one_number_is_enough(
    name: str,
    kind: str,
    small_files: dict[str, bytes],
    take_apart: Callable[[bytes], Any],
    write: Write,
) -> None:
    gguf = take_apart(small_files[kind])
    poison(gguf, name, math.nan, everywhere=False)
    with (
        edge.load(write(gguf.encode()), threads=1) as model,
        pytest.raises(edge.NumericError, match=r"layer 0|the final norm|the head"),
    ):
        generate(model)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["f32", "q8_0"])
@pytest.mark.parametrize("row", [0, 7, 15])
def test_one_row_of_the_head(
    row: int,
    kind: str,
    temperature: float,
    small_files: dict[str, bytes],
    take_apart: Callable[[bytes], Any],
    write: Write,
) -> None:
    """Also the mask token's, which cannot be chosen but is part of every probability."""
    gguf = take_apart(small_files[kind])
    span = gguf.span("output.weight")
    at = span.start + row * (32 * 4 if kind == "f32" else 34)
    number = struct.pack("<f" if kind == "f32" else "<e", math.nan)
    gguf.data = gguf.data[:at] + number + gguf.data[at + len(number) :]
    with (
        edge.load(write(gguf.encode()), threads=1) as model,
        pytest.raises(edge.NumericError, match="the head's logits"),
    ):
        model.generate_ids([0, 1, 2], max_tokens=4, temperature=temperature)


def test_a_token_that_is_not_in_the_canvas_does_no_harm(
    small_files: dict[str, bytes], take_apart: Callable[[bytes], Any], write: Write
) -> None:
    gguf = take_apart(small_files["f32"])
    at = gguf.span("token_embd.weight").start + 9 * 32 * 4
    gguf.data = gguf.data[:at] + struct.pack("<f", math.nan) + gguf.data[at + 4 :]
    with edge.load(write(gguf.encode()), threads=1) as model:
        assert model.generate_ids([0, 1], max_tokens=1).complete
        with pytest.raises(edge.NumericError, match="layer 0"):
            model.generate_ids([0, 9], max_tokens=1)
        assert model.generate_ids([0, 1], max_tokens=1).complete


@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "blk.0.ffn_up.weight", "output.weight"])
@pytest.mark.parametrize("value", [3e38, -3e38, 1e-45, 0.0])
def test_extreme_but_finite_weights(
    value: float,
    name: str,
    small_files: dict[str, bytes],
    take_apart: Callable[[bytes], Any],
    write: Write,
) -> None:
    """What overflows is told; what does not gives tokens of the vocabulary."""
    gguf = take_apart(small_files["f32"])
    poison(gguf, name, value, everywhere=True)
    with edge.load(write(gguf.encode()), threads=1) as model:
        try:
            result = generate(model)
        except edge.NumericError:
            assert abs(value) > 1
            return
    assert all(0 <= token < 15 for token in result.ids)
    assert math.isfinite(result.stats.mean_confidence)

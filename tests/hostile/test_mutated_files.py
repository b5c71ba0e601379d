"""Thousands of damaged files: a clean result or a documented refusal, in little time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge

Write = Callable[[bytes], Path]
Run = Callable[[Path], edge.EdgeError | None]
Alarm = Callable[[float], None]

EXTREMES = [0, 1, 2, 8, 9, 31, 32, 64]
EXTREMES += [2**power + step for power in (16, 31, 32, 40, 63) for step in (-1, 0, 1)]
EXTREMES += [2**64 - 32, 2**64 - 1]

# Which integer of the file, and its new value; numbers are taken modulo what there is.
FIELD_EDITS = st.lists(st.tuples(st.integers(0, 999), st.sampled_from(EXTREMES)), max_size=3)
# Where, how many bytes to leave out, what to put there.
SPLICES = st.lists(
    st.tuples(st.integers(0, 2**14), st.integers(0, 40), st.binary(max_size=40)), max_size=2
)
# From where to where, how much: a part of the file in another place.
COPIES = st.lists(
    st.tuples(st.integers(0, 2**14), st.integers(0, 2**14), st.integers(1, 300)), max_size=1
)


def mutated(content: bytes, fields: list[tuple[int, int]], edits: Any) -> bytes:
    """Apply (field edits, splices, copies)."""
    out = bytearray(content)
    field_edits, splices, copies = edits
    for number, value in field_edits:
        at, width = fields[number % len(fields)]
        out[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    for at, left_out, put_in in splices:
        at %= len(out) + 1
        out[at : at + left_out] = put_in
    for source, target, size in copies:
        part = out[source % (len(out) + 1) :][:size]
        at = target % (len(out) + 1)
        out[at : at + len(part)] = part
    return bytes(out)


@pytest.mark.slow
@settings(
    max_examples=2000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(edits=st.tuples(FIELD_EDITS, SPLICES, COPIES))
@pytest.mark.usefixtures("no_growth")
def test_mutated_files(
    edits: Any, gguf: Any, write: Write, load_and_run: Run, alarm: Alarm
) -> None:
    alarm(10)  # a sound file takes a few milliseconds
    content = gguf.encode()
    load_and_run(write(mutated(content, gguf.fields, edits)))


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(number=st.integers(0, 999), value=st.integers(0, 2**64 - 1))
def test_any_value_in_any_field(
    number: int, value: int, gguf: Any, write: Write, load_and_run: Run, alarm: Alarm
) -> None:
    alarm(10)
    content = gguf.encode()
    load_and_run(write(mutated(content, gguf.fields, ([(number, value)], [], []))))


@given(content=st.binary(max_size=300))
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.parametrize("beginning", [b"", b"GGUF\3\0\0\0"])
def test_any_bytes(
    beginning: bytes, content: bytes, write: Write, load_and_run: Run, alarm: Alarm
) -> None:
    alarm(10)
    assert isinstance(load_and_run(write(beginning + content)), edge.ModelFileError)

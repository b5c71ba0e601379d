"""Each class of malformed file that has broken a reader of this format before, by name."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edge

Write = Callable[[bytes], Path]
Damage = Callable[[Any], None]  # changes a Gguf

EXTREMES = {
    "0": 0,
    "1": 1,
    "2^31-1": 2**31 - 1,
    "2^31": 2**31,
    "2^31+1": 2**31 + 1,
    "2^32-1": 2**32 - 1,
    "2^32": 2**32,
    "2^32+1": 2**32 + 1,
    "2^63-1": 2**63 - 1,
    "2^63": 2**63,
    "2^63+1": 2**63 + 1,
    "2^64-32": 2**64 - 32,
    "2^64-1": 2**64 - 1,
}
U32, STRING, ARRAY = 4, 8, 9


def refuse(path: str | Path, reason: str = ".") -> edge.ModelFileError:
    """Neither way of opening may accept the file; both say the same."""
    with pytest.raises(edge.ModelFileError, match=reason) as inspected:
        edge.inspect(path)
    with pytest.raises(edge.ModelFileError) as loaded:
        edge.load(path, threads=1)
    line = str(inspected.value)
    assert str(loaded.value) == line
    assert "\n" not in line
    assert str(path) in line
    return inspected.value


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("field", ["num_tensors", "num_keys"])
def test_counts(field: str, name: str, gguf: Any, write: Write) -> None:
    setattr(gguf, field, EXTREMES[name])
    refuse(write(gguf.encode()))


@pytest.mark.parametrize("name", EXTREMES)
def test_string_lengths(name: str, gguf: Any, write: Write) -> None:
    size = struct.pack("<Q", EXTREMES[name])
    gguf.keys[b"text"] = (STRING, size + b"abc")
    refuse(write(gguf.encode()))


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("item", range(14))
def test_array_lengths(item: int, name: str, gguf: Any, write: Write) -> None:
    gguf.keys[b"list"] = (ARRAY, struct.pack("<IQ", item, EXTREMES[name]) + b"\xff" * 3)
    refuse(write(gguf.encode()))


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("place", ["dimension", "offset", "name length"])
def test_tensor_fields(place: str, name: str, gguf: Any, write: Write) -> None:
    content = bytearray(gguf.encode())
    target = gguf.tensor("blk.0.ffn_up.weight")
    at = content.index(target.name)
    at += {"name length": -8, "dimension": len(target.name) + 4}.get(
        place, len(target.name) + 4 + 8 * len(target.dims) + 4
    )
    struct.pack_into("<Q", content, at, EXTREMES[name])
    refuse(write(bytes(content)))


def nest_arrays(gguf: Any) -> None:
    depth = 100_000
    gguf.keys[b"list"] = (ARRAY, struct.pack("<IQ", ARRAY, 1) * depth)


def wrap_dimensions(gguf: Any) -> None:
    gguf.tensors[-1].dims = [2**32, 2**32, 1, 2]


def wrap_padded_sum(gguf: Any) -> None:
    half = 2**63
    gguf.tensors[-2].offset = 2**64 - half
    gguf.tensors[-1].offset = half


def wrap_padding(gguf: Any) -> None:
    gguf.tensors[-1].dims = [2**64 - 1]


def most_elements(gguf: Any) -> None:
    """The most a tensor may have: its size must be compared with the file's, not allocated."""
    gguf.tensors[-1].dims = [2**40]
    gguf.tensors[-1].type = 28


def overlap(gguf: Any) -> None:
    gguf.tensors[-1].offset = gguf.tensors[-2].offset


def overlap_partly(gguf: Any) -> None:
    gguf.tensors[-1].offset -= 32


def swap_order(gguf: Any) -> None:
    gguf.tensors[-1], gguf.tensors[-2] = gguf.tensors[-2], gguf.tensors[-1]


def gap(gguf: Any) -> None:
    at = gguf.tensors[-1].offset
    gguf.tensors[-1].offset += 32
    gguf.data = gguf.data[:at] + bytes(32) + gguf.data[at:]


def misalign(gguf: Any) -> None:
    gguf.tensors[-1].offset += 1
    gguf.data += b"\0"


def offset_beyond_file(gguf: Any) -> None:
    gguf.tensors[-1].offset = len(gguf.data) + 4096


def duplicate_key(gguf: Any) -> None:
    gguf.add_raw_key("general.name", STRING, struct.pack("<Q", 1) + b"x")


def duplicate_tensor(gguf: Any) -> None:
    gguf.tensors[-1].name = gguf.tensors[0].name


def zero_dimension(gguf: Any) -> None:
    gguf.tensors[-1].dims[-1] = 0


def no_dimensions(gguf: Any) -> None:
    gguf.tensors[-1].dims = []


def five_dimensions(gguf: Any) -> None:
    gguf.tensors[-1].dims += [1, 1, 1]


def dimension_count_wraps(gguf: Any) -> None:
    gguf.tensors[-1].dims = [1] * 1000


def half_a_group(gguf: Any) -> None:
    gguf.tensors[-1].dims[0] += 1


def empty_key(gguf: Any) -> None:
    gguf.add_raw_key("", U32, bytes(4))


def long_key(gguf: Any) -> None:
    gguf.add_raw_key("k" * 65_536, U32, bytes(4))


def long_string(gguf: Any) -> None:
    gguf.set("general.description", "string", "x" * ((16 << 20) + 1))


def empty_tensor_name(gguf: Any) -> None:
    gguf.tensors[-1].name = b""


def long_tensor_name(gguf: Any) -> None:
    gguf.tensors[-1].name = b"x" * 128


def trailing_bytes(gguf: Any) -> None:
    gguf.data += bytes(4096)


def trailing_byte(gguf: Any) -> None:
    gguf.data += b"\0" * (1 + -len(gguf.data) % 32)


def boolean_of_two(gguf: Any) -> None:
    gguf.set("flag", "bool", 2)


def booleans_of_two(gguf: Any) -> None:
    gguf.set("flags", "[bool]", [1, 2])


DAMAGES: list[tuple[Damage, str]] = [
    (nest_arrays, "an array inside an array"),
    (wrap_dimensions, "zero or too large"),
    (wrap_padded_sum, "said to begin at"),
    (wrap_padding, "zero or too large"),
    (most_elements, "the file ends inside tensor"),
    (overlap, "said to begin at"),
    (overlap_partly, "said to begin at"),
    (swap_order, "said to begin at"),
    (gap, "said to begin at"),
    (misalign, "said to begin at"),
    (offset_beyond_file, "said to begin at"),
    (duplicate_key, "'general.name' occurs twice"),
    (duplicate_tensor, "occurs twice"),
    (zero_dimension, "zero or too large"),
    (no_dimensions, "0 dimensions"),
    (five_dimensions, "5 dimensions"),
    (dimension_count_wraps, "1000 dimensions"),
    (half_a_group, "do not divide"),
    (empty_key, "an empty key"),
    (long_key, "65536 bytes, at most 65535"),
    (long_string, "at most 16777216"),
    (empty_tensor_name, "an empty tensor name"),
    (long_tensor_name, "128 bytes, at most 127"),
    (trailing_bytes, "follow the last tensor"),
    (trailing_byte, "follow the last tensor"),
    (boolean_of_two, "a boolean of value 2"),
    (booleans_of_two, "a boolean of value 2"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=lambda x: getattr(x, "__name__", ""))
def test_named_damage(damage: Damage, reason: str, gguf: Any, write: Write) -> None:
    damage(gguf)
    error = refuse(write(gguf.encode()), reason)
    assert error.offset is not None


@pytest.mark.parametrize("magic", [b"GGUX", b"FUGG", b"ggml", b"\0\0\0\0", b"PK\3\4"])
def test_magic(magic: bytes, gguf: Any, write: Write) -> None:
    gguf.magic = magic
    assert refuse(write(gguf.encode()), "no GGUF file").offset == 0


@pytest.mark.parametrize("version", [0, 1, 2, 4, 3 << 24, 2**32 - 1])
def test_version(version: int, gguf: Any, write: Write) -> None:
    gguf.version = version
    assert refuse(write(gguf.encode()), f"version {version}, version 3 is wanted").offset == 4


@pytest.mark.parametrize(
    ("kind", "value"),
    [("u32", n) for n in (0, 1, 2, 4, 7, 9, 24, 33, 48, 4095, 8192, 2**31, 2**32 - 1)]
    + [("u64", 2**63), ("u64", 2**64 - 1)]
    + [("i32", 32), ("i64", -32), ("f32", 32.0), ("bool", 1), ("string", "32"), ("[u32]", [32])],
)
def test_alignment(kind: str, value: Any, gguf: Any, write: Write) -> None:
    gguf.set("general.alignment", kind, value)
    refuse(write(gguf.encode()), "general.alignment must be a power of two from 8 to 4096")


@pytest.mark.parametrize("alignment", [8, 16, 64, 4096])
def test_other_alignments_are_read(alignment: int, gguf: Any, write: Write) -> None:
    spans = {tensor.name.decode(): gguf.span(tensor.name.decode()) for tensor in gguf.tensors}
    parts = {name: gguf.data[span] for name, span in spans.items()}
    sizes = {name: unpadded(gguf.tensor(name)) for name in parts}
    gguf.set("general.alignment", "u32", alignment)
    gguf.alignment, gguf.data = alignment, b""
    for tensor in gguf.tensors:
        tensor.offset = len(gguf.data)
        name = tensor.name.decode()
        gguf.data += parts[name][: sizes[name]]
        gguf.data += bytes(-len(gguf.data) % alignment)
    with edge.load(write(gguf.encode()), threads=1) as model:
        assert model.logits([0, 1]).shape == (2, 16)


def unpadded(tensor: Any) -> int:
    values = 1
    for size in tensor.dims:
        values *= size
    return values * 4 if tensor.type == 0 else values // 32 * 34


@pytest.mark.parametrize("type_id", [13, 14, 255, 2**31, 2**32 - 1])
def test_unknown_value_types(type_id: int, gguf: Any, write: Write) -> None:
    gguf.add_raw_key("odd", type_id, bytes(8))
    refuse(write(gguf.encode()), f"unknown value type {type_id}")


@pytest.mark.parametrize("type_id", [4, 5, 16, 29, 31, 39, 40, 255, 2**31, 2**32 - 1])
def test_unknown_tensor_types(type_id: int, gguf: Any, write: Write) -> None:
    gguf.tensors[-1].type = type_id
    refuse(write(gguf.encode()), f"unknown type {type_id}")


INVALID_UTF8 = {
    "lone continuation": b"a\x80",
    "half a character": b"a\xe2\x82",
    "overlong": b"\xc0\xaf",
    "overlong of three": b"\xe0\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "no UTF-8 at all": b"\xff\xfe",
}


@pytest.mark.parametrize("name", INVALID_UTF8)
@pytest.mark.parametrize("place", ["key", "value", "item", "tensor"])
def test_invalid_utf8(place: str, name: str, gguf: Any, write: Write) -> None:
    bad = INVALID_UTF8[name]
    if place == "key":
        gguf.add_raw_key(bad, U32, bytes(4))
    elif place == "value":
        gguf.set("text", "string", bad)
    elif place == "item":
        gguf.set("list", "[string]", [b"good", bad])
    else:
        gguf.tensors[-1].name = bad
    refuse(write(gguf.encode()), "not valid UTF-8")


def test_empty_file(write: Write) -> None:
    assert refuse(write(b""), "the file ends inside the magic number").offset == 0


@pytest.mark.parametrize("kind", ["string", "[string]", "[u32]"])
def test_huge_values_do_not_flood_the_error(kind: str, gguf: Any, write: Write) -> None:
    values = {"string": "x" * 1_000_000, "[string]": ["x"] * 100_000, "[u32]": range(100_000)}
    for key in ("general.architecture", "llada.block_count", "diffusion.eos_ids"):
        was = gguf.keys[key.encode()]
        gguf.set(key, kind, values[kind])
        with pytest.raises((edge.ModelFileError, edge.UnsupportedModelError)) as caught:
            edge.inspect(write(gguf.encode()))
        assert len(str(caught.value)) < 5000
        gguf.keys[key.encode()] = was


# Swapping one doubled block for the other leaves the hash of a key as it is, in the hash function
# of GCC's standard library (MurmurHash64A with a fixed seed): 2^16 keys of one hash.
DOUBLED = (b"\xd7\xb9}\xe8\xaf\x8e\xd5\x97" * 2, b"\xd7\xb9:\x02Kt}&" * 2)


def test_colliding_keys_take_no_longer_than_others(write: Write) -> None:
    """Where each key is compared with all others of its hash, these take a minute."""
    count = 65_535
    keys = [b"".join(DOUBLED[n >> bit & 1] for bit in range(16)) for n in range(count)]
    body = b"".join(struct.pack("<Q", len(key)) + key + bytes(5) for key in keys)
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, count) + body
    path = write(content + bytes(-len(content) % 32))
    shown = subprocess.run(
        [sys.executable, "-m", "edge", "show", "-m", path],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert shown.returncode == 3
    assert "key 'general.architecture' is missing" in shown.stderr

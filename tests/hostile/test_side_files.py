"""Side files with any bytes: taken when right, else ignored and written anew; never a crash."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edge
from edge import _native, pack_cache
from edge.backends.native import native_shape
from edge.config import read_config
from edge.formats.gguf_file import open_model, read_header

Write = Callable[[bytes], Path]
HASH = bytes(range(32))
HEADER, ENTRY, DATA = 128, 192, 4096
IDS = np.arange(12, dtype=np.int32)


class Packed:
    """The small model, and its side file's true bytes."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.path = model.with_name("model.panels")
        self.size = model.stat().st_size
        self.reader = self.denoiser()
        self.reader.write_panels(os.fsencode(self.path), self.size, HASH)
        self.true = self.path.read_bytes()

    def denoiser(self) -> _native.Denoiser:
        config = read_config(read_header(self.model)).denoiser
        return _native.Denoiser(open_model(self.model), native_shape(config), 2, pack=False)

    def logits_from(self, content: bytes, size: int | None = None) -> NDArray[np.float32]:
        self.path.unlink()  # it may be mapped
        self.path.write_bytes(content)
        source_size = self.size if size is None else size
        self.reader.map_panels(os.fsencode(self.path), source_size, HASH)
        return self.reader.logits(IDS)

    def refuses(self, content: bytes) -> str:
        with pytest.raises(_native.FileFault) as refused:
            self.logits_from(content)
        return str(refused.value.args[1])


@pytest.fixture(params=["q8_0", "int8", "int4"])
def packed(request: pytest.FixtureRequest, small_files: dict[str, bytes], write: Write) -> Packed:
    return Packed(write(small_files[request.param]))


def changed(content: bytes, at: int, mask: int) -> bytes:
    out = bytearray(content)
    out[at] ^= mask
    return bytes(out)


def test_the_true_file_is_taken_and_aligned(packed: Packed) -> None:
    denoiser = packed.denoiser()
    denoiser.pack_panels()
    np.testing.assert_array_equal(packed.logits_from(packed.true), denoiser.logits(IDS))
    assert len(packed.true) == DATA + denoiser.panel_bytes
    offsets = [
        int.from_bytes(packed.true[at : at + 8], "little")
        for at in range(HEADER + 128, HEADER + 8 * ENTRY, ENTRY)
    ]
    assert all(offset % 64 == 0 for offset in offsets)
    packed.denoiser().write_panels(os.fsencode(packed.path), packed.size, HASH)
    assert packed.path.read_bytes() == packed.true  # the same bytes every time


def test_every_byte_of_header_and_table_counts(packed: Packed) -> None:
    reasons = {packed.refuses(changed(packed.true, at, 1)) for at in range(0, DATA, 7)}
    said = {"something else", "of another version", "another file's", "damaged"}
    assert reasons == {f"the packed weights are {what}" for what in said}


def test_any_flip_is_seen(packed: Packed) -> None:
    @settings(
        max_examples=200,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, len(packed.true) - 1), st.integers(1, 255))
    def check(at: int, mask: int) -> None:
        packed.refuses(changed(packed.true, at, mask))

    check()


def test_any_swap_of_words_is_seen(packed: Packed) -> None:
    words = np.frombuffer(packed.true, np.uint64)

    @settings(
        max_examples=100,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(DATA // 8, len(words) - 1), st.integers(DATA // 8, len(words) - 1))
    def check(i: int, j: int) -> None:
        if words[i] == words[j]:
            return
        swapped = words.copy()
        swapped[[i, j]] = swapped[[j, i]]
        packed.refuses(swapped.tobytes())

    check()


@pytest.mark.parametrize("length", [0, 1, 64, HEADER, DATA - 1, DATA, -4096, -64, -1])
def test_truncations(packed: Packed, length: int) -> None:
    assert "another size" in packed.refuses(packed.true[:length])


def test_more_bytes(packed: Packed) -> None:
    assert "another size" in packed.refuses(packed.true + b"\0" * 64)


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"edgepack"])
def test_other_content_of_the_right_size(packed: Packed, filler: bytes) -> None:
    packed.refuses((filler * len(packed.true))[: len(packed.true)])


def test_another_source(packed: Packed) -> None:
    with pytest.raises(_native.FileFault, match="another file's"):
        packed.logits_from(packed.true, size=packed.size + 1)


@pytest.mark.parametrize("hash", [b"", HASH[:-1], HASH + b"\0"])
def test_hashes_have_32_bytes(packed: Packed, hash: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        packed.denoiser().map_panels(os.fsencode(packed.path), packed.size, hash)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "device"])
def test_special_files_are_not_read(packed: Packed, kind: str) -> None:
    other = packed.path.with_name("other")
    {
        "folder": lambda: other.mkdir(),
        "pipe": lambda: os.mkfifo(other),
        "link": lambda: other.symlink_to(packed.path),
        "device": lambda: other.symlink_to("/dev/zero"),
    }[kind]()
    with pytest.raises((OSError, _native.FileFault)):
        packed.denoiser().map_panels(os.fsencode(other), packed.size, HASH)


def test_through_the_library(
    small_files: dict[str, bytes], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_cache, "SMALLEST_BYTES", 1)
    monkeypatch.setattr(pack_cache, "cache_folder", lambda: tmp_path / "cache")
    path = write(small_files["int4"])
    with edge.load(path, threads=1, pack_cache=False) as model:
        wanted = model.logits(IDS)
    with edge.load(path, threads=1) as model:
        np.testing.assert_array_equal(model.logits(IDS), wanted)
    (side,) = pack_cache.panel_folder().iterdir()
    true = side.read_bytes()

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(max_size=300), st.integers(0, len(true)), st.booleans())
    def check(filling: bytes, at: int, cuts: bool) -> None:
        other = side.with_name("other")
        other.write_bytes(true[:at] + filling + (b"" if cuts else true[at + len(filling) :]))
        other.replace(side)
        with edge.load(path, threads=1) as loaded:
            np.testing.assert_array_equal(loaded.logits(IDS), wanted)
        assert side.read_bytes() == true

    check()

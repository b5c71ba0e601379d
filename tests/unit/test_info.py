"""``inspect``: what a file says, and that nothing of it stays open."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import edge
from edge import _native
from edge.denoisers import DEFAULT

MAPS = Path("/proc/self/maps")
needs_proc = pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")


class TestInspect:
    def test_says_what_the_file_is(self, llada: Path) -> None:
        info = edge.inspect(llada)
        assert info.path == str(llada)
        assert info.architecture == "llada"
        assert info.name == "llada"
        assert info.size_bytes == llada.stat().st_size
        assert info.num_parameters == 2 * 256 * 64 + 64 + 3 * (4 * 64 * 64 + 3 * 64 * 112 + 2 * 64)
        assert {type: count for type, (count, _) in info.types.items()} == {
            "f32": 7,
            "q8_0": 20,
            "f16": 3,
        }
        assert info.types["f16"] == (3, 3 * 64 * 112 * 2)
        assert not info.has_tokenizer
        assert info.chat_template is None
        assert info.provenance["conversion.type"] == "q8_0"
        assert info.file_sha256() == hashlib.sha256(llada.read_bytes()).hexdigest()

    def test_the_embedded_default(self) -> None:
        info = edge.inspect()
        assert info == edge.inspect(DEFAULT)
        assert info.has_tokenizer
        assert info.config.task == "sudoku"

    @needs_proc
    def test_never_maps_the_file(self, llada: Path) -> None:
        header_only = _native.ModelFile(str(llada), map_tensors=False)
        info = edge.inspect(llada)
        assert str(llada) not in MAPS.read_text()
        assert info.size_bytes == header_only.size_bytes
        with edge.load(llada):
            lines = [line for line in MAPS.read_text().splitlines() if line.endswith(str(llada))]
            assert lines
            assert all(" r--" in line for line in lines)  # read-only
        assert str(llada) not in MAPS.read_text()

    @needs_proc
    def test_leaves_no_file_open(self, llada: Path) -> None:
        edge.inspect(llada)
        with edge.load(llada):
            pass
        names = [os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd")]
        assert str(llada) not in names

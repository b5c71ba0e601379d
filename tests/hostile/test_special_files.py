"""Paths that are no regular file, or no plain name, where a model file is expected."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import edge

Write = Callable[[bytes], Path]


def refuse(path: str | Path, reason: str) -> None:
    """Neither way of opening may accept the file, or wait for it."""
    for use in (edge.inspect, edge.load):
        with pytest.raises(edge.ModelFileError, match=reason) as caught:
            use(path)
        assert str(path) in str(caught.value)


def test_directory(tmp_path: Path) -> None:
    refuse(tmp_path, "[Dd]irectory")


def test_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refuse(tmp_path / "fifo", "no regular file")


def test_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        refuse("socket", "cannot be read")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_device(device: str) -> None:
    refuse(device, "no regular file")


def test_symbolic_link_is_followed(small: bytes, write: Write, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(write(small))
    assert edge.inspect(link).name == "small"


def test_symbolic_link_to_itself(tmp_path: Path) -> None:
    link = tmp_path / "loop.gguf"
    link.symlink_to(link)
    refuse(link, "cannot be read")


@pytest.mark.parametrize("target", ["missing.gguf", "missing/model.gguf", "link.gguf"])
def test_missing_file(target: str, tmp_path: Path) -> None:
    (tmp_path / "link.gguf").symlink_to("nowhere")
    for use in (edge.inspect, edge.load):
        with pytest.raises(edge.ModelNotFoundError, match="no such model file"):
            use(tmp_path / target)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(small: bytes, write: Write) -> None:
    path = write(small)
    path.chmod(0)
    refuse(path, "cannot be read")


def test_name_that_is_not_utf8(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"model-\xff.gguf")
    path.write_bytes(small)
    assert edge.inspect(path).name == "small"
    path.write_bytes(small[:100])
    with pytest.raises(edge.ModelFileError):
        edge.inspect(path)


def test_name_with_a_nul(small: bytes, write: Write) -> None:
    """A name that the system would cut must not open the file of the shorter name."""
    with pytest.raises((edge.EdgeError, ValueError)):
        edge.inspect(f"{write(small)}\0.txt")

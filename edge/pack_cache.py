"""Side files: a model's weights as the kernels read them, packed once and mapped ever after.

A side file lies in the cache folder under a name that says whose it is: the model file's size, a
hash that stands for the model file, and the layout. It is written beside its place, flushed and
renamed, and read only through a mapping, so its pages are shared by all processes. The native
reader compares all of it with what it must be; one that is not exactly that is written anew.

The hash is over what the system says of the file (inode, times of the last change of content and
of anything), its header, and 4 KiB at 64 places. Replacing a file, by whatever means and with
whatever time stamp, gives it another inode or another time of change, which programs cannot set;
so a stale side file is taken only if a write happened within the clock tick (milliseconds) of
the model's opening, or on a file system that keeps no such time, and then only if header and
samples agree as well. Moving or copying a model packs it once more.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge import _native
from edge.cache_folder import cache_folder
from edge.formats.atomic_file import replacing, sweep_partials
from edge.formats.gguf_file import open_model

SMALLEST_BYTES = 64 << 20  # packing less takes less time than it is worth
LARGEST_FOLDER_BYTES = 32 << 30  # all side files together; the least recently used go first

_SUFFIX = ".panels"
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 4096
_SPARE_BYTES = 64 << 20  # to be left on the disk

_log = logging.getLogger(__name__)
_turn = threading.Lock()  # writers of one process share a name for the unfinished file


def _new_turn() -> None:
    global _turn
    _turn = threading.Lock()


os.register_at_fork(after_in_child=_new_turn)


@dataclass(frozen=True)
class SideFile:
    """Where a model file's panels are or will be, and what the side file must say of it."""

    path: Path
    size_bytes: int
    hash: bytes

    @property
    def arguments(self) -> tuple[bytes, int, bytes]:
        """What the native reader takes."""
        return os.fsencode(self.path), self.size_bytes, self.hash


def panel_folder() -> Path:
    """Where side files are; everything in it may be deleted at any time."""
    return cache_folder() / "panels"


def side_files() -> list[tuple[Path, os.stat_result]]:
    """The side files there are, least recently used first."""
    found = []
    with suppress(OSError):
        for path in panel_folder().glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                found.append((path, path.stat()))
    return sorted(found, key=lambda file: file[1].st_mtime_ns)


def place_panels(denoiser: _native.Denoiser, file: _native.ModelFile) -> None:
    """Have the denoiser read its panels from a side file, or else from memory.

    Raises MemoryError only: no side file is no error.
    """
    if denoiser.panel_bytes < SMALLEST_BYTES:
        denoiser.pack_panels()
        return
    with _turn:
        try:
            _map_or_write(denoiser, _side_file_of(file))
        except (OSError, _native.FileFault) as reason:
            _log.info("weights are packed into memory: %s", reason)
            denoiser.pack_panels()


def forget_panels(path: Path) -> None:
    """Remove the side file of a model file that is about to go, or to be another one."""
    _side_file_of(open_model(path)).path.unlink(missing_ok=True)


def _side_file_of(file: _native.ModelFile) -> SideFile:
    digest = hashlib.sha256(struct.pack("<QQqq", file.size_bytes, *file.identity))
    digest.update(file.read_bytes(0, file.data_offset))
    last = max(0, file.size_bytes - _SAMPLE_BYTES)
    for i in range(_NUM_SAMPLES):
        offset = last * i // (_NUM_SAMPLES - 1)
        digest.update(file.read_bytes(offset, min(_SAMPLE_BYTES, file.size_bytes)))
    name = f"{file.size_bytes}-{digest.hexdigest()}-{_native.PANEL_LAYOUT}{_SUFFIX}"
    return SideFile(panel_folder() / name, file.size_bytes, digest.digest())


def _map_or_write(denoiser: _native.Denoiser, side: SideFile) -> None:
    try:
        denoiser.map_panels(*side.arguments)
    except FileNotFoundError:
        _log.info("weights are packed into %s", side.path)
    except (OSError, _native.FileFault) as reason:
        _log.info("%s is ignored and written anew: %s", side.path, reason)
    else:
        with suppress(OSError):
            os.utime(side.path)
        return
    _write(denoiser, side)
    denoiser.map_panels(*side.arguments)


def _write(denoiser: _native.Denoiser, side: SideFile) -> None:
    folder = side.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(".*.partial.*"):  # of writers that were killed
        sweep_partials(folder / left_over.name[1:].partition(".partial.")[0])
    _make_room(denoiser.panel_bytes, keep=side.path)
    free = shutil.disk_usage(folder).free
    if free < denoiser.panel_bytes + _SPARE_BYTES:
        raise OSError(f"{folder} has no room for {denoiser.panel_bytes} bytes")
    with replacing(side.path) as partial:
        denoiser.write_panels(os.fsencode(partial), side.size_bytes, side.hash)


def _make_room(num_bytes: int, keep: Path) -> None:
    files = [(path, status.st_size) for path, status in side_files() if path != keep]
    total = num_bytes + sum(size for _, size in files)
    for path, size in files:
        if total <= LARGEST_FOLDER_BYTES:
            return
        _log.info("%s, the least recently used, is removed", path)
        with suppress(OSError):
            path.unlink()
        total -= size

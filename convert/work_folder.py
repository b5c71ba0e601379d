"""What a long conversion has done so far, beside its target: the next run of the same goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import RequestError
from edge.formats.atomic_file import replacing

_JOB = "job.json"
_PART_BYTES = 1 << 23


class WorkFolder:
    """Files by name, each whole or absent."""

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        """Go on where a killed run of the same `job` stopped, else begin with nothing.

        The folder's name is this program's own. Raises RequestError for a file of that name,
        OSError from the disk.
        """
        self.path = path
        text = json.dumps(job, sort_keys=True)
        if path.exists() and not path.is_dir():
            raise RequestError(
                "a file has the name of the folder for unfinished work",
                path=path,
                hint="move it away, or name another OUT",
            )
        if not path.exists() or not self._is_of(text):
            self.remove()
            path.mkdir()
            self._write(_JOB, [text.encode()])

    def _is_of(self, job: str) -> bool:
        file = self.path / _JOB
        return file.is_file() and file.read_bytes() == job.encode()

    def file(self, name: str) -> Path:
        """Where the file of that name is or will be."""
        return self.path / name

    def holds(self, name: str) -> bool:
        """Whether it is finished."""
        return self.file(name).is_file()

    def keep(self, name: str, stored: Iterable[NDArray[np.uint8]]) -> None:
        """Write the bytes of a tensor, whole or not at all."""
        self._write(name, (part.data for part in stored))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path to write to; the file is finished when the body is."""
        with replacing(self.file(name)) as partial:
            yield partial

    def parts(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """The bytes that were kept, piece by piece."""
        with self.file(name).open("rb") as file:
            while piece := file.read(_PART_BYTES):
                yield np.frombuffer(piece, np.uint8)

    def keep_json(self, name: str, content: Any) -> None:
        """Write an object, whole or not at all."""
        self._write(name, [json.dumps(content).encode()])

    def json(self, name: str) -> Any:
        """An object that was kept, None where there is none."""
        return json.loads(self.file(name).read_bytes()) if self.holds(name) else None

    def remove(self) -> None:
        """Take it all away; the first thing to go is what would make another run trust it."""
        (self.path / _JOB).unlink(missing_ok=True)
        if self.path.is_dir():
            shutil.rmtree(self.path)

    def _write(self, name: str, pieces: Iterable[Any]) -> None:
        with self.writing(name) as path, path.open("wb") as file:
            for piece in pieces:
                file.write(piece)


@contextmanager
def work_folder(out: Path, job: Mapping[str, Any]) -> Iterator[WorkFolder]:
    """The folder of `out`'s conversion; it stays where the process is stopped, else it goes."""
    folder = WorkFolder(out.with_name(f".{out.name}.unfinished"), job)
    try:
        yield folder
    except Exception:  # not an interruption: those go on
        folder.remove()
        raise
    folder.remove()

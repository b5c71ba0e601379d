"""What can be converted: a checkpoint folder or a model file, seen through one door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from convert.safetensors_file import Tensor

if TYPE_CHECKING:
    from convert.adapter import Adapter
    from convert.gated_adapter import GatedAdapter

_HASH_CHUNK_BYTES = 1 << 20

Advance = Callable[[int], None]  # gets the bytes done since the last call


class Source(Protocol):
    """Tensor values stay on disk until they are asked for."""

    @property
    def path(self) -> Path:
        """The folder or file, for messages."""

    @property
    def architecture(self) -> str:
        """What it calls its network."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By the source's own names."""

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """Where the values are."""

    @property
    def adapter(self) -> Adapter | None:
        """What is merged into the tensors."""

    @property
    def gate(self) -> GatedAdapter | None:
        """What rows of mask tokens run with, among the tensors."""

    @property
    def num_bytes(self) -> int:
        """Bytes that `sha256` reads."""

    def sha256(self, advance: Advance = lambda _: None) -> str:
        """The hash that provenance tells."""


def hash_file(
    path: Path, update: Callable[[bytes], None], advance: Advance = lambda _: None
) -> None:
    """Feed the file to `update` piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(_HASH_CHUNK_BYTES):
            update(piece)
            advance(len(piece))

"""``inspect``: what a model file says, read without touching its tensor data."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from edge.config import ModelConfig, read_config
from edge.denoisers import DEFAULT, EMBEDDED, path_of
from edge.formats import keys
from edge.formats.gguf_file import Header, read_header
from edge.vocabulary import fault_of, holds_vocabulary

PathOrName = str | PathLike[str]


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says, read without touching its tensor data.

    ``types`` maps a storage type to (number of tensors, bytes); ``provenance`` holds the
    file's ``edge.source.*`` and ``edge.conversion.*`` keys, ``bf16_activations`` the quantized
    matrices whose inputs the file wants in bfloat16, not in int8.
    """

    path: str
    config: ModelConfig
    size_bytes: int
    num_parameters: int
    types: dict[str, tuple[int, int]]
    provenance: dict[str, str]
    bf16_activations: tuple[str, ...]
    has_tokenizer: bool
    chat_template: str | None

    @property
    def name(self) -> str:
        """The file's ``general.name``."""
        return self.config.name

    @property
    def architecture(self) -> str:
        """The file's ``general.architecture``."""
        return self.config.denoiser.architecture

    @property
    def main_type(self) -> str:
        """The storage type that takes most of the bytes."""
        return max(self.types, key=lambda name: self.types[name][1])

    @property
    def bits_per_weight(self) -> float:
        """Mean bits that one weight takes."""
        return 8 * sum(size for _, size in self.types.values()) / max(1, self.num_parameters)

    def file_sha256(self) -> str:
        """SHA-256 of the whole file, computed now."""
        digest = hashlib.sha256()
        with Path(self.path).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


def inspect(path: PathOrName | None = None) -> ModelInfo:
    """Describe a model file or an embedded denoiser (None: the default one).

    Raises ModelNotFoundError, ModelFileError, UnsupportedModelError.
    """
    return info_of(read_header(resolve(path)))


def resolve(path: PathOrName | None) -> str:
    """Return the file that a path or a name means, of None the default denoiser's."""
    if path is None:
        return str(path_of(DEFAULT))
    name = fspath(path)
    return str(path_of(name)) if name in EMBEDDED else name


def info_of(header: Header) -> ModelInfo:
    """Describe an opened file; raises ModelFileError, UnsupportedModelError."""
    types: dict[str, tuple[int, int]] = {}
    for tensor in header.tensors.values():
        count, size = types.get(tensor.type, (0, 0))
        types[tensor.type] = (count + 1, size + tensor.num_bytes)
    template = header.metadata.get(keys.CHAT_TEMPLATE)
    provenance = {
        key.removeprefix("edge."): str(value)
        for key, value in header.metadata.items()
        if key.startswith(("edge.source.", "edge.conversion."))
    }
    return ModelInfo(
        path=header.path,
        config=read_config(header),
        size_bytes=header.size_bytes,
        num_parameters=sum(math.prod(tensor.shape) for tensor in header.tensors.values()),
        types=types,
        provenance=provenance,
        bf16_activations=_names_in(header, keys.BF16_ACTIVATIONS),
        has_tokenizer=keys.TOKENIZER_JSON in header.metadata
        or (holds_vocabulary(header) and fault_of(header) is None),
        chat_template=template if isinstance(template, str) else None,
    )


def _names_in(header: Header, key: str) -> tuple[str, ...]:
    """A list of texts; anything else is refused by whoever loads the file."""
    names = header.metadata.get(key, [])
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()

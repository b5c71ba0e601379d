"""Typed access to a model file's metadata, every value checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from operator import index
from reprlib import repr as shown  # never longer than a line
from typing import Any

from edge.errors import ModelFileError, UnsupportedModelError
from edge.formats import keys
from edge.formats.gguf_file import Header

LARGEST = 1 << 28  # of any dimension; also the native engine's bound
REQUIRED: Any = object()  # the default of a key that has none
_SMALLEST = 1e-30  # of a positive number; float32 holds it with full precision


class KeyReader:
    """Typed access to metadata; each failure names the key, what it holds, what is wanted."""

    def __init__(self, header: Header, architectures: Collection[str]) -> None:
        """Raises ModelFileError, UnsupportedModelError for none of the ``architectures``."""
        self._path = header.path
        self._metadata: Mapping[str, Any] = header.metadata
        self._tensors = header.tensors
        self.architecture = self._one_of(architectures)

    def _one_of(self, architectures: Collection[str]) -> str:
        architecture: str = self.text(keys.ARCHITECTURE)
        if architecture not in architectures:
            raise UnsupportedModelError(
                f"the file holds a model of architecture {shown(architecture)}",
                path=self._path,
                hint=f"this version runs {', '.join(sorted(architectures))}",
            )
        return architecture

    def embedding_rows(self) -> object:
        """Rows of the embedding, which public files may leave to the tensor to say."""
        embedding = self._tensors.get("token_embd.weight")
        return REQUIRED if embedding is None else embedding.shape[0]

    def fail(self, key: str, problem: str) -> ModelFileError:
        """The error for a key that cannot be."""
        return ModelFileError(self._path, None, f"key '{self._name(key)}' {problem}")

    def unsupported(self, key: str, value: object, supported: str) -> UnsupportedModelError:
        """The error for a value that this version does not run."""
        return UnsupportedModelError(
            f"key '{self._name(key)}' is {shown(value)}",
            path=self._path,
            hint=f"this version runs {supported}",
        )

    def integer(
        self, key: str, *, default: object = REQUIRED, low: int = 1, high: int = LARGEST
    ) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(key, f"is {shown(value)}, not a whole number from {low} to {high}")
        return value

    def positive(self, key: str, *, default: object = REQUIRED, high: float = 1e30) -> float:
        """A number above 0 and up to ``high``."""
        value = self._get(key, default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not _SMALLEST <= value <= high:  # NaN is in no range
            raise self.fail(key, f"is {shown(value)}, not a number above 0 and up to {high:g}")
        return float(value)

    def text(self, key: str, *, default: Any = REQUIRED) -> Any:
        """A string, or the default."""
        value = self._get(key, default)
        if value is not default and not isinstance(value, str):
            raise self.fail(key, f"is {shown(value)}, not a string")
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, f"is {shown(value)}, not true or false")
        return value

    def ids(self, key: str, high: int) -> tuple[int, ...]:
        """Token ids below ``high``, none without the key."""
        values = self._get(key, ())
        try:
            listed = tuple(index(value) for value in values)
        except (TypeError, ValueError):
            raise self.fail(key, f"is {shown(values)}, not a list of token ids") from None
        if any(not 0 <= value < high for value in listed):
            raise self.fail(key, f"is {shown(listed)}, not a list of token ids below {high}")
        return listed

    def _get(self, key: str, default: object) -> Any:
        value = self._metadata.get(self._name(key), default)
        if value is REQUIRED:
            raise self.fail(key, "is missing")
        return value

    def _name(self, key: str) -> str:
        return key.format(arch=getattr(self, "architecture", ""))

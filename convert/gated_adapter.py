"""A low-rank adapter that only the rows of mask tokens run with, stored beside the plain weights.

The rest of the model stays the autoregressive one that it was trained for (Samragh et al.,
arXiv:2507.11851). The folder is in PEFT's layout; the mask token, and the embedding that was
trained for it, are PEFT's one trainable token (``trainable_token_indices``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert.adapter import Adapter, LowRank, check_completeness, check_shapes, open_adapter
from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.models.base import folded, shape_text
from convert.models.gate import MASK, SUFFIXES
from convert.safetensors_file import StoredTensor, Tensor
from edge.errors import ModelFileError, UnsupportedModelError

_TOKEN = ".token_adapter.trainable_tokens_delta"
_HINT = "give the adapter that was trained for mask tokens on this very SOURCE"


@dataclass(frozen=True)
class ScaledTensor:
    """A tensor times a number, rounded once."""

    base: StoredTensor
    scale: float

    @property
    def name(self) -> str:
        """The base's name."""
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The base's shape."""
        return self.base.shape

    @property
    def dtype(self) -> str:
        """A product is a float32, whatever the base is."""
        return "F32"

    def values(self, first_row: int = 0, num_rows: int | None = None) -> NDArray[np.float32]:
        """Some rows, or all. Raises ModelFileError where any value is not finite."""
        values = self.base.values(first_row, num_rows).astype(np.float64) * self.scale
        with np.errstate(over="ignore"):
            scaled = values.astype(np.float32)
        if not np.isfinite(scaled).all():
            raise _fault(self.base, "is too large for float32 once it is scaled")
        return scaled


@dataclass(frozen=True)
class GatedAdapter:
    """By the name of the checkpoint's tensor: what is added to its product in masked rows."""

    adapter: Adapter
    mask_token_id: int | None
    mask_embedding: StoredTensor | None  # [1, hidden]

    @property
    def rank(self) -> int:
        """The largest of all ranks."""
        return max(update.a.shape[0] for update in self.adapter.updates.values())

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What it adds to a source, under the names of ``convert.models.gate``."""
        tensors: dict[str, Tensor] = {}
        for name, update in self.adapter.updates.items():
            module = name.removesuffix(".weight")
            tensors[module + SUFFIXES["a"]] = update.a
            tensors[module + SUFFIXES["b"]] = _scaled(update)
        if self.mask_embedding is not None:
            tensors[MASK] = _Row(self.mask_embedding)
        return tensors

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ModelFileError where it does not fit tensors, by their names in a checkpoint."""
        check_shapes(self.adapter, tensors)
        check_completeness(self.adapter, tensors)

    @property
    def note(self) -> str:
        """What it is for, in a sentence."""
        names = ", ".join(folded(self.adapter.updates))[:500]
        return (
            f"mask tokens run with the adapter {self.adapter.folder} of rank {self.rank}: {names}"
        )


def open_gate(folder: Path) -> GatedAdapter:
    """Read its settings and which tensors it has.

    Raises like ``open_adapter``, ModelFileError for a mask token that is not clear, and
    UnsupportedModelError for an adapter that changes more than products.
    """
    adapter = open_adapter(folder)
    embedding = _mask_embedding(adapter)
    others = set(adapter.replacements) - ({_token_name(embedding)} if embedding else set())
    if others or not adapter.updates:
        what = f"replaces '{min(others)}'" if others else "has no low-rank update"
        reason = f"the adapter {what}, and masked rows can only add to products"
        raise UnsupportedModelError(reason, path=adapter.weights_path, hint=_HINT)
    adapter = replace(adapter, replacements={})
    return GatedAdapter(adapter, _mask_token_id(adapter, embedding), embedding)


def attach(checkpoint: Checkpoint, folder: Path | None) -> Checkpoint:
    """The checkpoint and the adapter's tensors; without a folder, itself.

    Raises like ``open_gate``, and ModelFileError when the two do not fit together.
    """
    if folder is None:
        return checkpoint
    gate = open_gate(folder)
    gate.check(checkpoint.tensors)
    return replace(checkpoint, tensors={**checkpoint.tensors, **gate.tensors}, gate=gate)


@dataclass(frozen=True)
class _Row:
    """The one row of a matrix, as a vector."""

    base: StoredTensor

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape[1:]

    @property
    def dtype(self) -> str:
        return self.base.dtype

    def values(self, first_row: int = 0, num_rows: int | None = None) -> NDArray[np.float32]:
        stop = None if num_rows is None else first_row + num_rows
        row: NDArray[np.float32] = self.base.values()[0]
        return row[first_row:stop]


def _scaled(update: LowRank) -> Tensor:
    return update.b if update.scale == 1 else ScaledTensor(update.b, update.scale)


def _mask_embedding(adapter: Adapter) -> StoredTensor | None:
    found = [tensor for name, tensor in adapter.replacements.items() if name.endswith(_TOKEN)]
    if not found:
        return None
    if len(found) > 1 or len(found[0].shape) != 2 or found[0].shape[0] != 1:
        told = f"is {shape_text(found[0].shape)}, one row for the mask token is wanted"
        raise _fault(found[-1], told if len(found) == 1 else "is not the only one of its kind")
    return found[0]


def _token_name(tensor: StoredTensor) -> str:
    return tensor.name.removeprefix("base_model.model.")


def _mask_token_id(adapter: Adapter, embedding: StoredTensor | None) -> int | None:
    ids = adapter.config.token_ids
    if len(ids) > 1 or (embedding is None) != (not ids):
        told = f"trainable_token_indices is {shown(list(ids))}"
        reason = f"{told}, and {'a' if embedding else 'no'} trained embedding is there"
        hint = "the mask token is the one trainable token, with its embedding in the adapter"
        raise ModelFileError(adapter.config.path, None, reason, hint=hint)
    return ids[0] if ids else None


def _fault(tensor: StoredTensor, what: str) -> ModelFileError:
    return ModelFileError(tensor.path, None, f"tensor '{tensor.name}' {what}", hint=_HINT)

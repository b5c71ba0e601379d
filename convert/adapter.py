"""A low-rank adapter (LoRA, arXiv:2106.09685) in PEFT's folder layout, merged into a checkpoint.

``W + scale * B @ A`` in float64, rounded once to float32, tensor by tensor as they are loaded and
before anything is quantized. An adapter that cannot be merged whole and truthfully is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert import safetensors_file
from convert.adapter_config import AdapterConfig, ends_with, read_adapter_config
from convert.arrangement import origins
from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.models.base import Spec, folded, shape_text
from convert.safetensors_file import StoredTensor, Tensor
from convert.source import Source, hash_file
from edge.errors import ModelFileError, ModelNotFoundError, UnsupportedModelError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"

_PREFIX = "base_model.model."
_LINEAR = (".lora_A.weight", ".lora_B.weight")
_EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
_DORA = ".lora_magnitude_vector"
_MOST_CHARACTERS = 500
_PIECE_VALUES = 1 << 20  # of a sum that is made in float64 at a time
_HINT = "give the adapter that was trained on this very SOURCE"


@dataclass(frozen=True)
class LowRank:
    """``scale * B @ A``, transposed for an embedding; `a` is [rank, in], `b` is [out, rank]."""

    a: StoredTensor
    b: StoredTensor
    scale: float
    is_embedding: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight that it is added to."""
        rows, cols = self.b.shape[0], self.a.shape[1]
        return (cols, rows) if self.is_embedding else (rows, cols)

    def factors(
        self, first_row: int, num_rows: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[num_rows, rank] and [rank, cols]. Raises ModelFileError if they are not finite."""
        a = self.a.values().astype(np.float64)
        if self.is_embedding:
            b = self.b.values().astype(np.float64)
            return a.T[first_row : first_row + num_rows], b.T
        return self.b.values(first_row, num_rows).astype(np.float64), a


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of the checkpoint, or the adapter's own in its place, plus an update."""

    name: str
    base: Tensor
    update: LowRank | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The base's shape."""
        return self.base.shape

    @property
    def dtype(self) -> str:
        """A sum is a float32, whatever the base is."""
        return self.base.dtype if self.update is None else "F32"

    def values(self, first_row: int = 0, num_rows: int | None = None) -> NDArray[np.float32]:
        """The merged values of some rows, or all.

        Raises ModelFileError where any of them is not finite.
        """
        values = self.base.values(first_row, num_rows)
        return values if self.update is None else _add(values, self.update, first_row)


@dataclass(frozen=True)
class Adapter:
    """By the name of the checkpoint's tensor: what is added, and what takes its place."""

    folder: Path
    config: AdapterConfig
    updates: Mapping[str, LowRank]
    replacements: Mapping[str, StoredTensor]

    @property
    def weights_path(self) -> Path:
        """The file of its tensors."""
        return self.folder / WEIGHTS

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors that it changes."""
        return tuple(sorted({*self.updates, *self.replacements}))

    @property
    def note(self) -> str:
        """What it changes, in a sentence."""
        names = ", ".join(folded(self.changed))[:_MOST_CHARACTERS]
        return f"the adapter {self.folder} is merged into {len(self.changed)} tensors: {names}"

    @cached_property
    def sha256(self) -> str:
        """Hash of adapter_config.json followed by adapter_model.safetensors."""
        digest = hashlib.sha256()
        for path in (self.config.path, self.weights_path):
            hash_file(path, digest.update)
        return digest.hexdigest()


def open_adapter(folder: Path) -> Adapter:
    """Read its settings and which tensors it has.

    Raises ModelNotFoundError, ModelFileError, and UnsupportedModelError for what cannot be merged.
    """
    if not folder.is_dir():
        hint = f"give a folder that holds {CONFIG} and {WEIGHTS}"
        raise ModelNotFoundError("no such adapter folder", path=folder, hint=hint)
    config = read_adapter_config(_file(folder, CONFIG))
    tensors = safetensors_file.read_header(_weights(folder))
    if not tensors:
        raise ModelFileError(folder / WEIGHTS, None, "the adapter holds no tensors", hint=_HINT)
    updates = dict(_updates(tensors, config))
    taken = {tensor.name for update in updates.values() for tensor in (update.a, update.b)}
    return Adapter(folder, config, updates, dict(_replacements(tensors, taken)))


def merge(checkpoint: Checkpoint, folder: Path | None) -> Checkpoint:
    """The checkpoint whose tensors load merged; without a folder, itself.

    Raises like `open_adapter`, and ModelFileError when the two do not fit together.
    """
    if folder is None:
        return checkpoint
    adapter = open_adapter(folder)
    if adapter.config.token_ids:
        raise UnsupportedModelError(
            "the adapter has trainable tokens, which cannot be merged",
            path=adapter.config.path,
            hint="where they are a mask token's, give the adapter with --gated-adapter",
        )
    check_shapes(adapter, checkpoint.tensors)
    check_completeness(adapter, checkpoint.tensors)
    tensors = dict(checkpoint.tensors)
    for name in adapter.changed:
        base = adapter.replacements.get(name, tensors[name])
        tensors[name] = MergedTensor(name, base, adapter.updates.get(name))
    return replace(checkpoint, tensors=tensors, adapter=adapter)


def check_merged(source: Source, spec: Spec) -> None:
    """Raise UnsupportedModelError where the adapter would change what is left out or shared."""
    adapter = source.adapter
    if adapter is None:
        return
    sources = {
        name: tensor.role
        for tensor in spec.tensors
        for name in origins(tensor.source, source.tensors.get(tensor.source))
    }
    is_tied = "head" not in sources.values()
    for name in adapter.changed:
        if is_tied and sources.get(name) == "embedding":
            reason = f"the adapter changes '{name}', which is the head too, and only one of the two"
        elif name not in sources:
            reason = f"the adapter changes '{name}', which is not part of the file"
        else:
            continue
        hint = "save the merged checkpoint with a head of its own and convert that"
        raise UnsupportedModelError(reason, path=adapter.weights_path, hint=hint)


def _add(values: NDArray[np.float32], update: LowRank, first_row: int) -> NDArray[np.float32]:
    left, right = update.factors(first_row, len(values))
    step = max(1, _PIECE_VALUES // values.shape[1])
    for first in range(0, len(values), step):
        rows = slice(first, first + step)
        with np.errstate(over="ignore"):
            values[rows] = values[rows] + update.scale * (left[rows] @ right)
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise _fault(update.b, "makes the merged weights too large for float32")
    return values


def _updates(
    tensors: Mapping[str, StoredTensor], config: AdapterConfig
) -> Iterator[tuple[str, LowRank]]:
    for name, tensor in tensors.items():
        if name.endswith(_DORA) or f"{_DORA}." in name:
            reason = f"tensor '{name}' belongs to DoRA, which cannot be merged"
            hint = "merge it with the program it was trained with, and convert the result"
            raise UnsupportedModelError(reason, path=tensor.path, hint=hint)
        for suffixes in (_LINEAR, _EMBEDDING):
            for suffix, other in (suffixes, suffixes[::-1]):
                if name.endswith(suffix):
                    partner = tensors.get(name.removesuffix(suffix) + other)
                    if partner is None:
                        raise _fault(tensor, f"has no {other} beside it")
                    if suffix == suffixes[0]:
                        yield _update(tensor, partner, suffixes, config)


def _update(
    a: StoredTensor, b: StoredTensor, suffixes: tuple[str, str], config: AdapterConfig
) -> tuple[str, LowRank]:
    module = _without_prefix(a).removesuffix(suffixes[0])
    rank = config.rank_of(module)
    for tensor, axis in ((a, 0), (b, 1)):
        shape = tensor.shape
        if len(shape) != 2 or shape[axis] != rank or 0 in shape:
            wanted = "[rank, in]" if axis == 0 else "[out, rank]"
            told = f"{wanted} with the rank {rank} of {config.path.name} is wanted"
            raise _fault(tensor, f"is {shape_text(shape)}, {told}")
    is_embedding = suffixes is _EMBEDDING
    return f"{module}.weight", LowRank(a, b, config.scale_of(module), is_embedding)


def _replacements(
    tensors: Mapping[str, StoredTensor], taken: set[str]
) -> Iterator[tuple[str, StoredTensor]]:
    """Whole tensors that were trained beside the updates (modules_to_save, bias)."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if name in taken:
            continue
        replaced = _without_prefix(tensor).replace(".base_layer.", ".")
        if replaced in found:
            raise _fault(tensor, f"and '{found[replaced].name}' both take the place of one")
        found[replaced] = tensor
        yield replaced, tensor


def check_shapes(adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelFileError for a tensor that fits none of the checkpoint's."""
    made = [(name, tensor, tensor.shape) for name, tensor in adapter.replacements.items()]
    for name, update in adapter.updates.items():
        made.append((name, update.b, update.shape))
    for name, tensor, shape in made:
        if name not in tensors:
            raise _fault(tensor, f"changes '{name}', which the checkpoint does not have")
        wanted = tensors[name].shape
        if shape != wanted:
            told = f"the checkpoint's '{name}' is {shape_text(wanted)}"
            raise _fault(tensor, f"makes {shape_text(shape)}, {told}")


def check_completeness(adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    """Every module that the settings name must be there: half an adapter is another model."""
    config, changed = adapter.config, set(adapter.changed)
    named = {"modules_to_save": config.replaced, "target_modules": config.targets or ()}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        for key, targets in named.items():
            is_meant = key == "modules_to_save" or (len(tensor.shape) == 2 and module != name)
            met = [target for target in targets if ends_with(module, target)]
            if is_meant and met and name not in changed:
                reason = f"{key} names {shown(met[0])}, yet nothing is there for '{name}'"
                raise ModelFileError(adapter.weights_path, None, reason, hint=_HINT)


def _without_prefix(tensor: StoredTensor) -> str:
    if not tensor.name.startswith(_PREFIX):
        raise _fault(tensor, f"does not begin with {_PREFIX}")
    return tensor.name.removeprefix(_PREFIX)


def _fault(tensor: StoredTensor, what: str) -> ModelFileError:
    return ModelFileError(tensor.path, None, f"tensor '{tensor.name}' {what}", hint=_HINT)


def _weights(folder: Path) -> Path:
    if (folder / PICKLED).exists() and not (folder / WEIGHTS).exists():
        raise UnsupportedModelError(
            f"{PICKLED} is a pickled adapter, which can run code when it is opened",
            path=folder / PICKLED,
            hint=f"save the adapter as {WEIGHTS} and give that",
        )
    return _file(folder, WEIGHTS)


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "is missing"
        raise ModelFileError(folder, None, f"{name} {problem}", hint="fetch the adapter again")
    return path

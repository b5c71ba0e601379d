"""A model file as the source of a conversion: a public GGUF, or one that was converted before.

Names, the order of rows and the keys stay as they are; only how the weights are stored changes.
What a quantized source has lost stays lost.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert.gated_adapter import GatedAdapter, open_gate
from convert.metadata import SETTINGS, Entry, kind_of, text_is_storable
from convert.models import loops
from convert.models.base import Choices, Spec, TensorSpec
from convert.models.dense import tensors_of
from convert.models.gate import gate_entries, gate_tensors, stored_gate_tensors
from convert.models.shape import DenseShape
from convert.safetensors_file import Tensor, require_finite
from convert.source import Advance, hash_file
from convert.stored_rows import read_rows
from edge import _native
from edge.config import ModelConfig, read_config
from edge.errors import UnsupportedModelError
from edge.formats import keys
from edge.formats.gguf_file import Header, read_header

_SUFFIX = ".gguf"
_FLOATS = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
_POSITIONS = "position_embd.weight"
_EXPERT_BIAS = ".exp_probs_b.bias"
# What the conversion says anew, and what tells of files that no longer exist.
_SAID_ANEW = (
    "edge.tensor.",
    "edge.conversion.",
    "edge.source.",
    "edge.activations.",
    "split.",
    "quantize.",
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
)


@dataclass(frozen=True)
class ModelFileTensor:
    """One tensor of a model file, its values dequantized as the runtime does."""

    path: Path
    info: _native.TensorInfo

    @property
    def name(self) -> str:
        """Its name in the file."""
        return self.info.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows before columns."""
        return tuple(self.info.shape)

    @property
    def dtype(self) -> str:
        """The float type that holds its values exactly, as safetensors names it."""
        return _FLOATS.get(self.info.type, "F32")

    def values(self, first_row: int = 0, num_rows: int | None = None) -> NDArray[np.float32]:
        """Of some rows, or all. Raises ModelFileError when one is not finite."""
        count = self.shape[0] - first_row if num_rows is None else num_rows
        if len(self.shape) == 1:
            values = self._stored_rows(0, 1)[0, first_row : first_row + count]
        else:
            each = math.prod(self.shape[1:-1])
            values = self._stored_rows(first_row * each, count * each)
        values = values.reshape(count, *self.shape[1:])
        require_finite(values, self.name, self.path, first_row)
        return values

    def _stored_rows(self, first: int, count: int) -> NDArray[np.float32]:
        """[count, cols] of the file's rows."""
        info, cols = self.info, self.shape[-1]
        row_bytes = info.num_bytes // (math.prod(self.shape) // cols)
        place, choices = info.offset + first * row_bytes, (info.group_size, info.has_minima)
        return read_rows(self.path, place, count, row_bytes, info.type, cols, *choices)


@dataclass(frozen=True)
class ModelFile:
    """An opened model file; `entries` are those of its keys that stay, the caller's among them."""

    path: Path
    header: Header
    config: ModelConfig
    entries: Mapping[str, Entry]
    adapter: None = None
    gate: GatedAdapter | None = None

    @property
    def architecture(self) -> str:
        """What the checkpoint called its network, where the file tells; else its own name."""
        told = self.header.metadata.get(keys.SOURCE_ARCHITECTURE)
        is_told = isinstance(told, str) and text_is_storable(told)
        return str(told) if is_told else self.config.denoiser.architecture

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By name, those of an adapter of masked rows among them."""
        own = {name: ModelFileTensor(self.path, t) for name, t in self.header.tensors.items()}
        return {**own, **(self.gate.tensors if self.gate else {})}

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    @property
    def num_bytes(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def sha256(self, advance: Advance = lambda _: None) -> str:
        """Hash of the file."""
        digest = hashlib.sha256()
        hash_file(self.path, digest.update, advance)
        return digest.hexdigest()

    def spec(self) -> Spec:
        """The same network once more. Raises ModelFileError for tensors that do not belong."""
        spec = Spec(
            architecture=self.config.denoiser.architecture,
            num_rows=self.config.denoiser.vocab_size,
            tensors=tuple(self._specs()),
            entries=tuple(self.entries.values()),
            notes=tuple(self._notes()),
        )
        spec.validate(self)
        return spec

    def _specs(self) -> Iterator[TensorSpec]:
        denoiser, names = self.config.denoiser, self.header.tensors.keys()
        plain = self._plain_specs()
        for tensor in plain:
            yield replace(tensor, source=tensor.target, rope_heads=0)
            if tensor.role == "embedding" and _POSITIONS in names:
                size = denoiser.context_length, denoiser.hidden_size
                yield TensorSpec(_POSITIONS, _POSITIONS, size, "table")
        yield from gate_tensors(self.gate, plain)
        if self.gate is None and denoiser.gate_rank:
            yield from stored_gate_tensors(self.tensors, plain)

    def _plain_specs(self) -> list[TensorSpec]:
        """The network's tensors by their names in a checkpoint, which has rows of its own order."""
        denoiser, names = self.config.denoiser, self.header.tensors.keys()
        has_bias = denoiser.qkv_bias or "blk.0.attn_q.bias" in names
        has_head = "output.weight" in names
        has_expert_bias = any(name.endswith(_EXPERT_BIAS) for name in names)
        shape = _shape(self.config, has_expert_bias=has_expert_bias)
        specs = tensors_of(shape, has_bias, denoiser.qk_norm, has_head=has_head)
        if denoiser.rope_pairs != "adjacent":
            return list(specs)
        heads = {"attn_q": denoiser.num_heads, "attn_k": denoiser.num_kv_heads}
        parts = ((tensor, tensor.target.split(".")[-2]) for tensor in specs)
        return [replace(tensor, rope_heads=heads.get(part, 0)) for tensor, part in parts]

    def _notes(self) -> Iterator[str]:
        if self.gate is not None:
            yield self.gate.note
        types = {tensor.type for tensor in self.header.tensors.values()} - _FLOATS.keys()
        if types:
            yield f"SOURCE is quantized ({', '.join(sorted(types))}); what that lost stays lost"
        if lost := sorted(set(_kept(self.header)) - self.entries.keys()):
            yield f"keys of SOURCE in forms that are not written: {', '.join(lost)}"


def is_model_file(path: Path) -> bool:
    """Whether the path is to be read as a model file, not as a checkpoint folder."""
    return path.suffix == _SUFFIX and not path.is_dir()


def open_model_file(path: Path, choices: Choices, gated_adapter: Path | None = None) -> ModelFile:
    """Read everything but the weights.

    Raises ModelNotFoundError, ModelFileError, UnsupportedModelError for a network that the
    runtime does not know.
    """
    header = read_header(path)
    gate = None if gated_adapter is None else open_gate(gated_adapter)
    told = dict(_told_by(gate)) | dict(choices.settings)
    if choices.mask_token_id is not None:
        told[keys.MASK_TOKEN_ID] = Entry(keys.MASK_TOKEN_ID, "u32", choices.mask_token_id)
    changed = {key: entry.stored() for key, entry in told.items()}
    config = read_config(replace(header, metadata=header.metadata | changed))
    entries = {entry.key: entry for entry in _entries(header)}
    rows = keys.VOCAB_SIZE.format(arch=config.denoiser.architecture)
    entries.setdefault(rows, Entry(rows, "u32", config.denoiser.vocab_size))
    file = ModelFile(path, header, config, entries | told)
    return file if gate is None else _with_gate(file, gate)


def _told_by(gate: GatedAdapter | None) -> Iterator[tuple[str, Entry]]:
    """What makes an autoregressive model one that drafts."""
    if gate is None:
        return
    for key, value in loops.drafting().items():
        yield key, SETTINGS[key].entry(value)
    for entry in gate_entries(gate):
        yield entry.key, entry
    if gate.mask_token_id is not None:
        yield keys.MASK_TOKEN_ID, Entry(keys.MASK_TOKEN_ID, "u32", gate.mask_token_id)


def _with_gate(file: ModelFile, gate: GatedAdapter) -> ModelFile:
    if file.header.metadata.get(keys.GATE_RANK):
        reason = "SOURCE has an adapter of masked rows already"
        raise UnsupportedModelError(reason, path=file.path, hint="give the model without it")
    plain = ((tensor.source, tensor.target) for tensor in file._plain_specs())
    gate.check({name: file.tensors[own] for name, own in plain if own in file.tensors})
    return replace(file, gate=gate)


def _kept(header: Header) -> Iterator[str]:
    for key in header.metadata:
        if not key.startswith(_SAID_ANEW) and key != keys.ARCHITECTURE:
            yield key


def _entries(header: Header) -> Iterator[Entry]:
    for key in _kept(header):
        value = header.metadata[key]
        value = value.tolist() if isinstance(value, np.ndarray) else value
        value = tuple(value) if isinstance(value, list) else value
        if kind := kind_of(key, value):
            yield Entry(key, kind, value)


def _shape(config: ModelConfig, *, has_expert_bias: bool) -> DenseShape:
    denoiser = config.denoiser
    return DenseShape(
        hidden_size=denoiser.hidden_size,
        num_heads=denoiser.num_heads,
        num_kv_heads=denoiser.num_kv_heads,
        head_dim=denoiser.head_dim,
        num_layers=denoiser.num_layers,
        feed_forward_size=denoiser.feed_forward_size,
        context_length=denoiser.context_length,
        num_rows=denoiser.vocab_size,
        num_tokens=config.num_tokens,
        rope_theta=denoiser.rope_theta,
        norm_eps=denoiser.rms_norm_eps,
        rotary_dims=denoiser.rotary_dims,
        experts=denoiser.experts,
        has_expert_bias=has_expert_bias,
    )

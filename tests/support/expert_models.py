"""Tiny denoisers with experts: a GGUF written with the gguf package alone, as others would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy_twin
from numpy.typing import NDArray

from edge import _native
from edge.formats.experts import Experts
from edge.formats.groups import layout_for, own_layouts

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCAB, DENSE_SIZE = 64, 4, 2, 32, 40, 96
MASK = VOCAB - 1
_GLOBAL = ("tokenizer.", "edge.", "diffusion.")
_FIELDS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_used",
    "expert_feed_forward_length": "size",
    "expert_shared_feed_forward_length": "shared_size",
    "leading_dense_block_count": "num_dense_layers",
    "expert_weights_norm": "renormalises",
    "expert_weights_scale": "scale",
    "expert_group_count": "num_groups",
    "expert_group_used_count": "num_used_groups",
}


@dataclass(frozen=True)
class ExpertModel:
    """``more`` are keys of the file, those of the experts where it does not leave them out."""

    experts: Experts
    architecture: str = "edge-bailingmoe2"
    num_layers: int = 3
    rotary_dims: int = 16
    has_bias: bool = True
    more: Mapping[str, Any] | None = None
    seed: int = 5

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Random weights by their names in the file."""
        random = np.random.default_rng(self.seed)

        def values(*shape: int) -> NDArray[np.float32]:
            drawn = random.standard_normal(shape)
            if len(shape) == 1:
                return (1 + 0.2 * drawn).astype(np.float32)
            return (1.5 * drawn / np.sqrt(shape[-1])).astype(np.float32)

        return {name: values(*shape) for name, shape in self._shapes()}

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "token_embd.weight", (VOCAB, HIDDEN)
        for layer in range(self.num_layers):
            for name, shape in self._layer_shapes(layer):
                yield f"blk.{layer}.{name}", shape
        yield "output_norm.weight", (HIDDEN,)
        yield "output.weight", (VOCAB, HIDDEN)

    def _layer_shapes(self, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "attn_norm.weight", (HIDDEN,)
        for x, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            yield f"attn_{x}.weight", (heads * HEAD_DIM, HIDDEN)
            if x != "v":
                yield f"attn_{x}_norm.weight", (HEAD_DIM,)
        yield "attn_output.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield "ffn_norm.weight", (HIDDEN,)
        if layer < self.experts.num_dense_layers:
            yield from self._gated("", DENSE_SIZE)
            return
        count = self.experts.num_experts
        yield "ffn_gate_inp.weight", (count, HIDDEN)
        if self.has_bias:
            yield "exp_probs_b.bias", (count,)
        yield from self._gated("_exps", self.experts.size, count)
        if self.experts.shared_size:
            yield from self._gated("_shexp", self.experts.shared_size)

    @staticmethod
    def _gated(kind: str, size: int, *count: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"ffn_gate{kind}.weight", (*count, size, HIDDEN)
        yield f"ffn_up{kind}.weight", (*count, size, HIDDEN)
        yield f"ffn_down{kind}.weight", (*count, HIDDEN, size)

    def network(self, weights: Mapping[str, Any]) -> numpy_twin.Network:
        """For the numpy twin."""
        return numpy_twin.Network(
            num_layers=self.num_layers,
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            eps=float(np.float32(1e-6)),
            rope_theta=10000.0,
            rope_pairs="halves",
            weights=weights,
            rotary_dims=self.rotary_dims,
            experts=self.experts,
        )

    def write(self, path: Path, kind: str = "f32") -> numpy_twin.Network:
        """Write the file, matrices as ``kind``; the router stays float. Returns the network."""
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self._keys().items():
            _add(writer, key if key.startswith(_GLOBAL) else f"{self.architecture}.{key}", value)
        held: dict[str, Any] = {}
        own = []
        for name, values in self.tensors().items():
            is_matrix = values.ndim > 1 and not name.endswith("ffn_gate_inp.weight")
            cols = values.shape[-1]
            layout = layout_for(kind if is_matrix else "f32", cols) or layout_for("f16", cols)
            assert layout is not None
            own.append((name, values.shape[-1], layout))
            held[name] = _add_tensor(writer, name, values, layout)
        for key, listed in own_layouts(own).items():
            kind = {str: "STRING", int: "UINT32", bool: "BOOL"}[type(listed[0])]
            element = gguf.GGUFValueType[kind]
            writer.add_key_value(key, listed, gguf.GGUFValueType.ARRAY, element)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return self.network(held)

    def _keys(self) -> dict[str, Any]:
        sizes: dict[str, Any] = {
            "context_length": 128,
            "embedding_length": HIDDEN,
            "block_count": self.num_layers,
            "feed_forward_length": DENSE_SIZE,
            "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS,
            "attention.key_length": HEAD_DIM,
            "rope.dimension_count": self.rotary_dims,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "tokenizer.ggml.mask_token_id": MASK,
        }
        sizes["rope.freq_base"] = 10000.0
        if self.more is not None:
            return sizes | dict(self.more)
        scores = {"softmax": 1, "sigmoid": 2}[self.experts.scores]
        sizes["expert_gating_func"] = scores
        sizes["edge.expert_bias_counts"] = self.experts.bias_counts
        return sizes | {key: getattr(self.experts, name) for key, name in _FIELDS.items()}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    add.get(type(value), writer.add_string)(key, value)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: Any, layout: Any) -> Any:
    """Write a tensor; returns what the twin computes with, a list of matrices of three dims."""
    if layout.type == "f32":
        writer.add_tensor(name, values)
        return list(values) if values.ndim == 3 else values
    cols = values.shape[-1]
    stored = _native.quantize(layout.type, values.reshape(-1, cols), *layout.choices)
    raw = {"f16": "F16", "bf16": "BF16"}.get(layout.type, layout.type.upper())
    kind = gguf.GGMLQuantizationType["I8" if layout.is_own else raw]
    shaped = stored.reshape(*values.shape[:-1], -1)
    shaped = shaped.view(np.int8) if layout.is_own else shaped
    writer.add_tensor(layout.stored_name(name), shaped, raw_dtype=kind)
    matrix = matrix_of(stored, cols, layout)
    if values.ndim < 3:
        return matrix
    rows = values.shape[1]
    return [_rows_of(matrix, i * rows, (i + 1) * rows) for i in range(len(values))]


def matrix_of(stored: NDArray[np.uint8], cols: int, layout: Any) -> Any:
    """Floats, or the whole numbers and scales of a quantized type."""
    if layout.group_size == 1:
        return _native.dequantize(layout.type, stored, cols)
    groups = stored.reshape(len(stored), cols // layout.group_size, -1)
    num_halves = 2 if layout.has_minima else 1
    halves = groups[..., : 2 * num_halves].copy().view(np.float16).astype(np.float32)
    codes = groups[..., 2 * num_halves :]
    if layout.type in ("int8", "q8_0"):
        whole = codes.view(np.int8)
    else:
        runs = codes.reshape(*codes.shape[:2], layout.group_size // 32, 16)
        whole = np.concatenate([runs & 15, runs >> 4], axis=-1).astype(np.int8)
        whole = whole if layout.has_minima else whole - np.int8(8)
    minima = halves[..., 1] if layout.has_minima else None
    return numpy_twin.Quantized(whole.reshape(-1, cols), halves[..., 0], minima)


def _rows_of(matrix: Any, first: int, last: int) -> Any:
    if not isinstance(matrix, numpy_twin.Quantized):
        return matrix[first:last]
    minima = None if matrix.minima is None else matrix.minima[first:last]
    return numpy_twin.Quantized(matrix.whole[first:last], matrix.scales[first:last], minima)

"""A LLaDA-shaped forward in numpy, written a second time and from the formulas.

``forward`` is the network; how its parts are computed is a choice:
``Plain`` is float64 in numpy's own order, the truth that the engine approximates.
``AsEngine`` is float32 with the operations in the engine's order (kernels.h: 16 lanes, fused
multiply-add), needed where a last bit decides how an activation rounds to int8. A fused
multiply-add is float64 rounded to float32; it differs from the real one in 1 of 2^29 cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F32 = np.float32


@dataclass(frozen=True)
class Quantized:
    """Whole numbers [rows, cols], and a scale and perhaps a minimum [rows, groups] per group."""

    whole: NDArray[np.int8]
    scales: NDArray[np.float32]
    minima: NDArray[np.float32] | None = None
    bf16_activations: bool = False  # where the engine has int8 elsewhere

    @property
    def group(self) -> int:
        return self.whole.shape[1] // self.scales.shape[1]

    def values(self) -> NDArray[np.float32]:
        scaled = self.whole * np.repeat(self.scales, self.group, axis=1)
        return (
            scaled if self.minima is None else scaled - np.repeat(self.minima, self.group, axis=1)
        )


Matrix = Array | Quantized


@dataclass(frozen=True)
class Network:
    """Sizes, and weights under their names in a model file."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    rope_theta: float
    rope_pairs: str  # halves: i and i + head_dim / 2 turn together; adjacent: 2 i and 2 i + 1
    weights: Mapping[str, Any]  # of experts a list with a matrix for each
    rotary_dims: int = 0  # of a head; 0: all
    experts: Any = None  # edge.experts.Experts, or None

    def floats(self, name: str) -> Array:
        held = self.weights[name]
        return held.values() if isinstance(held, Quantized) else held

    @property
    def is_quantized(self) -> bool:
        lists = (held if isinstance(held, list) else [held] for held in self.weights.values())
        return any(isinstance(held, Quantized) for each in lists for held in each)

    @property
    def head(self) -> Matrix:
        return self.weights.get("output.weight", self.weights["token_embd.weight"])


@dataclass(frozen=True)
class Mask:
    kind: str = "full"
    block_length: int = 1
    origin: int = 0

    def visible(self, length: int) -> NDArray[np.int64]:
        """How many of the keys 0..length-1 each of the queries 0..length-1 sees."""
        q = np.arange(length)
        if self.kind == "full":
            return np.full(length, length)
        if self.kind == "causal":
            return q + 1
        block_end = ((q - self.origin) // self.block_length + 1) * self.block_length + self.origin
        return np.minimum(block_end, length)


class Arithmetic(Protocol):
    dtype: type

    def linear(self, rows: Array, weights: Matrix) -> Array: ...
    def rms_norm(self, rows: Array, weight: Array, eps: float) -> Array: ...
    def attend(self, q: Array, k: Array, v: Array, visible: Array) -> Array: ...
    def silu(self, x: Array) -> Array: ...


# The feed-forward part of a layer with experts, of (network, "blk.N.", rows, arithmetic).
FeedForward = Callable[["Network", str, Array, Any], Array]


def forward(
    net: Network,
    ids: Array,
    math_: Arithmetic,
    mask: Mask | None = None,
    experts: FeedForward | None = None,
) -> Array:
    """Logits [len(ids), vocab]."""
    visible = (mask or Mask()).visible(len(ids))
    hidden = net.floats("token_embd.weight")[ids].astype(math_.dtype)
    if "position_embd.weight" in net.weights:
        hidden = hidden + net.floats("position_embd.weight")[: len(ids)].astype(math_.dtype)
    for layer in range(net.num_layers):
        hidden = hidden + _attention(net, f"blk.{layer}.", hidden, math_, visible)
        at = f"blk.{layer}."
        rows = math_.rms_norm(hidden, net.floats(at + "ffn_norm.weight"), net.eps)
        mixed = at + "ffn_gate_inp.weight" in net.weights
        part = experts if mixed and experts else gated_product
        hidden = hidden + part(net, at, rows, math_)
    hidden = math_.rms_norm(hidden, net.floats("output_norm.weight"), net.eps)
    return math_.linear(hidden, net.head)


def _attention(net: Network, at: str, hidden: Array, math_: Arithmetic, visible: Array) -> Array:
    rows = math_.rms_norm(hidden, net.floats(at + "attn_norm.weight"), net.eps)
    shapes = {"q": net.num_heads, "k": net.num_kv_heads, "v": net.num_kv_heads}
    q, k, v = (
        math_.linear(rows, net.weights[f"{at}attn_{name}.weight"])
        .reshape(len(rows), heads, net.head_dim)
        .swapaxes(0, 1)
        for name, heads in shapes.items()
    )
    for name, heads in (("q", q), ("k", k)):
        if (norm := f"{at}attn_{name}_norm.weight") in net.weights:
            flat = heads.reshape(-1, net.head_dim)
            heads[...] = math_.rms_norm(flat, net.floats(norm), net.eps).reshape(heads.shape)
    q, k = rotated(net, q), rotated(net, k)
    share = net.num_heads // net.num_kv_heads
    mixed = math_.attend(q, np.repeat(k, share, axis=0), np.repeat(v, share, axis=0), visible)
    flat = np.ascontiguousarray(mixed.swapaxes(0, 1)).reshape(len(rows), -1)
    return math_.linear(flat, net.weights[at + "attn_output.weight"])


def gated_product(
    net: Network, at: str, rows: Array, math_: Arithmetic, kind: str = "", index: int | None = None
) -> Array:
    """What normalised rows become: of a dense part, or of the expert ``index``."""
    gate, up, down = (net.weights[f"{at}ffn_{x}{kind}.weight"] for x in ("gate", "up", "down"))
    if index is not None:
        gate, up, down = gate[index], up[index], down[index]
    return math_.linear(math_.silu(math_.linear(rows, gate)) * math_.linear(rows, up), down)


def rotated(net: Network, heads: Array) -> Array:
    """Turn [heads, positions, head_dim] by the rotary embedding."""
    dims = net.rotary_dims or net.head_dim
    pairs = dims // 2
    frequencies = [net.rope_theta ** (-2.0 * i / dims) for i in range(pairs)]
    angles = [[p * f for f in frequencies] for p in range(heads.shape[1])]
    cosines = np.array([[math.cos(a) for a in row] for row in angles]).astype(F32)
    sines = np.array([[math.sin(a) for a in row] for row in angles]).astype(F32)
    halves = net.rope_pairs == "halves"
    first = slice(0, pairs) if halves else slice(0, dims, 2)
    second = slice(pairs, dims) if halves else slice(1, dims, 2)
    x, y = heads[..., first], heads[..., second]
    turned = heads.copy()
    turned[..., first] = x * cosines - y * sines
    turned[..., second] = x * sines + y * cosines
    return turned


class Plain:
    """Float64, numpy's order."""

    dtype = np.float64

    def linear(self, rows: Array, weights: Matrix) -> Array:
        held = weights.values() if isinstance(weights, Quantized) else weights
        return rows @ held.astype(np.float64).T

    def rms_norm(self, rows: Array, weight: Array, eps: float) -> Array:
        return rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + eps) * weight

    def attend(self, q: Array, k: Array, v: Array, visible: Array) -> Array:
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        scores = np.where(np.arange(k.shape[1]) < visible[:, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        return weights / weights.sum(axis=2, keepdims=True) @ v

    def silu(self, x: Array) -> Array:
        return x / (1.0 + np.exp(-x))


def fma(a: Array, b: Array, c: Array) -> Array:
    return (np.multiply(a, b, dtype=np.float64) + c).astype(F32)


def lane_sum(lanes: Array) -> Array:
    """Sum of the 16 lanes on the last axis, halves onto halves."""
    for width in (8, 4, 2, 1):
        lanes = lanes[..., :width] + lanes[..., width:]
    return lanes[..., 0]


def padded(x: Array) -> Array:
    """[..., blocks, 16] of [..., count], zeros at the end."""
    blocks = -(-x.shape[-1] // 16)
    out = np.zeros((*x.shape[:-1], blocks * 16), x.dtype)
    out[..., : x.shape[-1]] = x
    return out.reshape(*x.shape[:-1], blocks, 16)


def exp(x: Array) -> Array:
    """Cephes' expf as in rows.h."""
    x = np.minimum(F32(88.0), np.maximum(F32(-87.0), x))
    n = np.rint(x * F32(1.44269504))
    r = fma(n, F32(-0.693359375), x)
    r = fma(n, F32(2.12194440e-4), r)
    p = np.full_like(x, 1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1):
        p = fma(p, r, F32(coefficient))
    p = fma(p, r, F32(5.0000001201e-1))
    p = fma(p, r * r, r) + F32(1.0)
    return np.ldexp(p, n.astype(np.int32))


def quantized_rows(rows: Array) -> tuple[NDArray[np.int8], Array]:
    """Whole numbers and the scale [rows] of what enters a quantized linear layer."""
    largest = np.abs(rows).max(axis=1)
    empty = largest <= F32(1e-30)
    inverse = np.where(empty, F32(0.0), F32(127.0) / np.where(empty, F32(1.0), largest))
    scales = np.where(empty, F32(0.0), largest / F32(127.0))
    return np.rint(rows * inverse[:, None]).astype(np.int8), scales


class AsEngine:
    """Float32 in the engine's order; ``int8`` says whether activations are quantized too.

    Keys and values are then bfloat16, unless no weights are ``quantized``.
    """

    dtype = F32

    def __init__(self, *, int8: bool, quantized: bool = True) -> None:
        self._int8 = int8
        self._quantized = quantized

    def linear(self, rows: Array, weights: Matrix) -> Array:
        if not isinstance(weights, Quantized):
            return _dot(rows, weights.astype(F32))
        if not self._int8:
            return _dot_groups(rows, weights)
        return (_dot_bf16 if weights.bf16_activations else _dot_int8)(rows, weights)

    def rms_norm(self, rows: Array, weight: Array, eps: float) -> Array:
        lanes = np.zeros((len(rows), 16), F32)
        blocks = padded(rows)
        for i in range(blocks.shape[1]):
            lanes = fma(blocks[:, i], blocks[:, i], lanes)
        mean = lane_sum(lanes) / F32(rows.shape[1])
        return rows * (F32(1.0) / np.sqrt(mean + F32(eps)))[:, None] * weight

    def attend(self, q: Array, k: Array, v: Array, visible: Array) -> Array:
        if self._int8 and self._quantized:
            return _attend_bf16(q, k, v, visible)
        scores = np.zeros((len(q), q.shape[1], k.shape[1]), F32)
        for d in range(q.shape[2]):
            scores = fma(q[..., d, None], k[:, None, :, d], scores)
        scores = scores * (F32(1.0) / np.sqrt(F32(q.shape[2])))
        seen = np.arange(k.shape[1]) < visible[:, None]
        highest = np.where(seen, scores, -np.inf).max(axis=2, keepdims=True).astype(F32)
        weights = np.where(seen, exp(scores - highest), F32(0.0))
        total = np.zeros((*weights.shape[:2], 16), F32)
        blocks = padded(weights)
        for i in range(blocks.shape[2]):
            total = total + blocks[:, :, i]
        mixed = np.zeros((len(q), q.shape[1], v.shape[2]), F32)
        for key in range(k.shape[1]):
            mixed = fma(weights[..., key, None], v[:, None, key], mixed)
        return mixed * (F32(1.0) / lane_sum(total))[..., None]

    def silu(self, x: Array) -> Array:
        return x / (F32(1.0) + exp(F32(0.0) - x))


def bf16(x: Array) -> Array:
    """To the nearest bfloat16, ties to even."""
    bits = x.astype(F32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    small = (bits & 0x7F800000) == 0
    return np.where(small, bits & np.uint32(0x80000000), rounded).astype(np.uint32).view(F32)


def exp2(x: Array) -> Array:
    """exp2_of_negative of span_attention.h."""
    x = np.maximum(F32(-126.0), x)
    n = np.rint(x)
    r = x - n
    p = np.full_like(x, F32(float.fromhex("0x1.3a02ccp-7")))
    for coefficient in ("0x1.c9fc46p-5", "0x1.ec0378p-3", "0x1.62e12cp-1", "0x1p0"):
        p = fma(p, r, F32(float.fromhex(coefficient)))
    return np.ldexp(p, n.astype(np.int32))


def dot2(total: Array, a: Array, b: Array) -> Array:
    """VDPBF16PS on the last axis of two: the second product is added first."""
    return fma(a[..., 0], b[..., 0], fma(a[..., 1], b[..., 1], total))


def _attend_bf16(q: Array, k: Array, v: Array, visible: Array) -> Array:
    """Spans of 128 keys with a running maximum, scores in bits."""
    q, k, v = bf16(q), bf16(k), bf16(v)
    keys = -(-k.shape[1] // 16) * 16
    k, v = (np.pad(x, ((0, 0), (0, keys - x.shape[1]), (0, 0))) for x in (k, v))
    scores = np.zeros((len(q), q.shape[1], keys), F32)
    for d in range(0, q.shape[2], 2):
        scores = dot2(scores, q[:, :, None, d : d + 2], k[:, None, :, d : d + 2])
    scale = F32(1.0) / np.sqrt(F32(q.shape[2])) * F32(1.44269504)
    seen = np.arange(keys) < visible[:, None]
    scores = np.where(seen, scores * scale, F32(-np.inf))
    highest = np.full((*scores.shape[:2], 1), -np.inf, F32)
    total = np.zeros((*scores.shape[:2], 16), F32)
    mixed = np.zeros((*scores.shape[:2], v.shape[2]), F32)
    for first in range(0, keys, 128):
        span = scores[..., first : first + 128]
        before, highest = highest, np.maximum(highest, span.max(axis=2, keepdims=True))
        shrinkage = exp2(before - highest)
        weights = exp2(span - highest) - F32(2.0**-126)
        total, mixed = total * shrinkage, mixed * shrinkage
        for i in range(0, weights.shape[2], 16):
            total = total + weights[..., i : i + 16]
        weights = bf16(weights)
        for key in range(0, weights.shape[2], 2):
            pair = v[:, first + key : first + key + 2].swapaxes(1, 2)
            mixed = dot2(mixed, weights[:, :, None, key : key + 2], pair[:, None])
    return mixed * (F32(1.0) / lane_sum(total))[..., None]


def _dot(rows: Array, weights: Array) -> Array:
    """The depth along the lanes, a sum over lanes at the end."""
    a, w = padded(rows), padded(weights)
    lanes = np.zeros((len(rows), len(weights), 16), F32)
    for i in range(a.shape[1]):
        lanes = fma(a[:, None, i], w[None, :, i], lanes)
    return lane_sum(lanes)


def _dot_int8(rows: Array, weights: Quantized) -> Array:
    """Exact sums within a group, groups and then the row's scale in float32."""
    whole, row_scales = quantized_rows(rows)
    total = np.zeros((len(rows), len(weights.whole)), F32)
    for group in range(weights.scales.shape[1]):
        part = slice(group * weights.group, (group + 1) * weights.group)
        sums = whole[:, part].astype(np.float64) @ weights.whole[:, part].astype(np.float64).T
        total = fma(sums.astype(F32), weights.scales[:, group], total)
        if weights.minima is not None:
            added_up = whole[:, part].sum(axis=1, dtype=np.int64).astype(F32)
            total = fma(added_up[:, None], F32(0.0) - weights.minima[:, group], total)
    return total * row_scales[:, None]


def _dot_bf16(rows: Array, weights: Quantized) -> Array:
    """Activations rounded to bfloat16 against whole numbers, pair by pair within a group."""
    rows = bf16(rows)
    total = np.zeros((len(rows), len(weights.whole)), F32)
    for group in range(weights.scales.shape[1]):
        first, stop = group * weights.group, (group + 1) * weights.group
        sums = np.zeros_like(total)
        for k in range(first, stop, 2):
            whole = weights.whole[:, k : k + 2].astype(F32)
            sums = dot2(sums, rows[:, None, k : k + 2], whole[None])
        total = fma(sums, weights.scales[:, group], total)
        if weights.minima is not None:
            lanes = np.zeros((len(rows), 16), F32)
            for k in range(first, stop, 16):
                lanes = lanes + rows[:, k : k + 16]
            added_up = lane_sum(lanes)[:, None]
            total = fma(added_up, F32(0.0) - weights.minima[:, group], total)
    return total


def _dot_groups(rows: Array, weights: Quantized) -> Array:
    """Float activations against whole numbers, one after the other within a group."""
    total = np.zeros((len(rows), len(weights.whole)), F32)
    for group in range(weights.scales.shape[1]):
        sums = np.zeros_like(total)
        added_up = np.zeros(len(rows), F32)
        for k in range(group * weights.group, (group + 1) * weights.group):
            sums = fma(rows[:, k, None], weights.whole[:, k].astype(F32), sums)
            added_up = added_up + rows[:, k]
        total = fma(sums, weights.scales[:, group], total)
        if weights.minima is not None:
            total = fma(added_up[:, None], F32(0.0) - weights.minima[:, group], total)
    return total

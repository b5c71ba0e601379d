"""Sizes of published denoisers, so that their speed can be known before a download.

Read off the models' own config.json (LLaDA-8B, Dream-v0-7B, SDAR, Fast_dLLM_v2) and those of what
they were made from: Qwen2.5-0.5B, -1.5B, -7B and Qwen3-0.6B, -1.7B, -4B, -8B. The A2D models are
qwen3-0.6b and qwen2.5-0.5b. The mixtures of experts are LLaDA-MoE-7B-A1B, LLaDA2.0-mini and
2.1-mini, and SDAR-30B-A3B, whose sizes RND1 has too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edge.config import ARCHITECTURES, DenoiserSizes
from edge.errors import RequestError
from edge.formats.experts import Experts

ROUTER = "ffn_gate_inp.weight"  # float in every file


@dataclass(frozen=True)
class Shape(DenoiserSizes):
    """A denoiser's sizes as in its config; ``tied`` means that the head is the embedding."""

    tied: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and [rows, cols] or [count] of each tensor of a model file."""
        hidden = self.hidden_size
        yield "token_embd.weight", (self.vocab_size, hidden)
        for layer in range(self.num_layers):
            for name, size in self._layer_tensors(layer):
                yield f"blk.{layer}.{name}", size
        yield "output_norm.weight", (hidden,)
        if not self.tied:
            yield "output.weight", (self.vocab_size, hidden)

    def _layer_tensors(self, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, wide = self.hidden_size, self.feed_forward_size
        query, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        family = ARCHITECTURES[self.architecture]
        yield "attn_norm.weight", (hidden,)
        for x, size in (("q", query), ("k", kv), ("v", kv)):
            yield f"attn_{x}.weight", (size, hidden)
            if family.qkv_bias:
                yield f"attn_{x}.bias", (size,)
        if family.qk_norm:
            yield "attn_q_norm.weight", (self.head_dim,)
            yield "attn_k_norm.weight", (self.head_dim,)
        yield "attn_output.weight", (hidden, query)
        yield "ffn_norm.weight", (hidden,)
        experts = self.experts
        if experts is None or layer < experts.num_dense_layers:
            yield from _gated("", wide, hidden)
            return
        yield ROUTER, (experts.num_experts, hidden)
        yield from _gated("_exps", experts.size, hidden, experts.num_experts)
        if experts.shared_size:
            yield from _gated("_shexp", experts.shared_size, hidden)

    @property
    def num_parameters(self) -> int:
        """Numbers stored in a model file."""
        return sum(math.prod(size) for _, size in self.tensors())


def thinner(shape: Shape, layers: int | None) -> Shape:
    """Return the shape with so many layers, all when None; of mixtures its share of dense ones.

    Raises RequestError.
    """
    if layers is None:
        return shape
    if layers > shape.num_layers:
        raise RequestError(
            f"{layers} layers are asked for", hint=f"the shape has {shape.num_layers}"
        )
    experts = shape.experts
    if experts is not None:
        num_dense = experts.num_dense_layers * layers // shape.num_layers
        experts = replace(experts, num_dense_layers=num_dense)
    return replace(shape, num_layers=layers, experts=experts)


def _gated(kind: str, size: int, hidden: int, *count: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Gate, up and down of one width, or of so many experts."""
    yield f"ffn_gate{kind}.weight", (*count, size, hidden)
    yield f"ffn_up{kind}.weight", (*count, size, hidden)
    yield f"ffn_down{kind}.weight", (*count, hidden, size)


_LLADA2 = Experts(256, 8, 512, 512, 1, "sigmoid", True, scale=2.5, num_groups=8, num_used_groups=4)

# fmt: off
# architecture, hidden, layers, heads, kv heads, head, feed-forward, vocabulary, context
SHAPES = {
    "qwen2.5-0.5b": Shape("edge-qwen2", 896, 24, 14, 2, 64, 4864, 151936, 32768, tied=True),
    "qwen3-0.6b": Shape("edge-qwen3", 1024, 28, 16, 8, 128, 3072, 151936, 40960, tied=True),
    "fast-dllm-v2-1.5b": Shape("edge-qwen2", 1536, 28, 12, 2, 128, 8960, 151936, 32768, tied=True),
    "sdar-1.7b": Shape("edge-qwen3", 2048, 28, 16, 8, 128, 6144, 151936, 32768),
    "sdar-4b": Shape("edge-qwen3", 2560, 36, 32, 8, 128, 9728, 151936, 32768),
    "fast-dllm-v2-7b": Shape("edge-qwen2", 3584, 28, 28, 4, 128, 18944, 152064, 32768),
    "dream-7b": Shape("dream", 3584, 28, 28, 4, 128, 18944, 152064, 131072),
    "llada-8b": Shape("llada", 4096, 32, 32, 32, 128, 12288, 126464, 4096),
    "llada-moe-7b": Shape(
        "llada-moe", 2048, 16, 16, 16, 128, 8192, 157184, 8192, experts=Experts(64, 8, 1024)
    ),
    "llada2-mini": Shape(
        "edge-bailingmoe2", 2048, 20, 16, 4, 128, 5120, 157184, 32768, experts=_LLADA2
    ),
    "sdar-30b-a3b": Shape(
        "edge-qwen3moe", 2048, 48, 32, 4, 128, 6144, 151936, 32768,
        experts=Experts(128, 8, 768, renormalises=True),
    ),
    "sdar-8b": Shape("edge-qwen3", 4096, 36, 32, 8, 128, 12288, 151936, 32768),
}
# fmt: on

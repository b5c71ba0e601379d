"""Sizes of published dense denoisers, so that their speed can be known before a download.

Read off the models' own config.json (LLaDA-8B, Dream-v0-7B, SDAR, Fast_dLLM_v2) and those of what
they were made from: Qwen2.5-0.5B, -1.5B, -7B and Qwen3-0.6B, -1.7B, -4B, -8B. The A2D models are
qwen3-0.6b and qwen2.5-0.5b.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edge.config import ARCHITECTURES, DenoiserSizes


@dataclass(frozen=True)
class Shape(DenoiserSizes):
    """A denoiser's sizes as in its config; ``tied`` means that the head is the embedding."""

    tied: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and [rows, cols] or [count] of each tensor of a model file."""
        hidden = self.hidden_size
        yield "token_embd.weight", (self.vocab_size, hidden)
        for layer in range(self.num_layers):
            for name, size in self._layer_tensors():
                yield f"blk.{layer}.{name}", size
        yield "output_norm.weight", (hidden,)
        if not self.tied:
            yield "output.weight", (self.vocab_size, hidden)

    def _layer_tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
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
        yield "ffn_gate.weight", (wide, hidden)
        yield "ffn_up.weight", (wide, hidden)
        yield "ffn_down.weight", (hidden, wide)

    @property
    def num_parameters(self) -> int:
        """Numbers stored in a model file."""
        return sum(math.prod(size) for _, size in self.tensors())


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
    "sdar-8b": Shape("edge-qwen3", 4096, 36, 32, 8, 128, 12288, 151936, 32768),
}
# fmt: on

"""A model file of a given shape with random weights: what it says is noise, its times are real.

    python examples/bench/random_model.py model.gguf

By default the shape of a 135M model (30 layers of 576, 49,152 tokens, tied head) in q8_0 that
attends in blocks of 16.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from edge import _native

ARCHITECTURE = "edge-llama"


@dataclass(frozen=True)
class Shape:
    """Sizes of a dense denoiser, by default those of SmolLM2-135M."""

    hidden: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    feed_forward: int = 1536
    vocab: int = 49152
    context: int = 2048
    block_length: int = 16

    def matrices(self) -> Iterator[tuple[str, int, int]]:
        """Name, rows and columns of every matrix."""
        yield "token_embd.weight", self.vocab, self.hidden
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for layer in range(self.layers):
            name = f"blk.{layer}."
            yield f"{name}attn_q.weight", query, self.hidden
            yield f"{name}attn_k.weight", key, self.hidden
            yield f"{name}attn_v.weight", key, self.hidden
            yield f"{name}attn_output.weight", self.hidden, query
            yield f"{name}ffn_gate.weight", self.feed_forward, self.hidden
            yield f"{name}ffn_up.weight", self.feed_forward, self.hidden
            yield f"{name}ffn_down.weight", self.hidden, self.feed_forward

    def norms(self) -> Iterator[str]:
        """Name of every norm."""
        yield "output_norm.weight"
        for layer in range(self.layers):
            yield f"blk.{layer}.attn_norm.weight"
            yield f"blk.{layer}.ffn_norm.weight"


def write(path: Path, shape: Shape, seed: int = 0) -> None:
    """Write the model in q8_0, norms in f32."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _add_keys(writer, shape)
    for name, rows, cols in shape.matrices():
        stored = _native.quantize("q8_0", _weights(random, rows, cols))
        writer.add_tensor(name, stored, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in shape.norms():
        writer.add_tensor(name, np.ones(shape.hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(random: np.random.Generator, rows: int, cols: int) -> NDArray[np.float32]:
    return random.standard_normal((rows, cols), np.float32) / np.float32(np.sqrt(cols))


def _add_keys(writer: gguf.GGUFWriter, shape: Shape) -> None:
    sizes = {
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "block_count": shape.layers,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "vocab_size": shape.vocab,
    }
    for key, size in sizes.items():
        writer.add_uint32(f"{ARCHITECTURE}.{key}", size)
    writer.add_float32(f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{ARCHITECTURE}.rope.freq_base", 10000.0)
    writer.add_string("diffusion.attention", "block")
    writer.add_uint32("diffusion.block_length", shape.block_length)
    writer.add_uint32("tokenizer.ggml.mask_token_id", shape.vocab - 1)


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(description="Write a model file with random weights.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.path, Shape(), arguments.seed)


if __name__ == "__main__":
    main()

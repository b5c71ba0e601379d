"""Sizes of a dense denoiser, their bounds, and the keys they become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convert.metadata import Entry
from convert.models import experts as mixtures
from convert.models.base import ConfigReader
from convert.safetensors_file import are_equal
from edge.formats import keys
from edge.formats.experts import Experts

MOST_LAYERS = 4096
MOST_HEADS = 16384
WIDEST = 1 << 20
LONGEST = 1 << 24
MOST_ROWS = 1 << 24


@dataclass(frozen=True)
class DenseShape:
    """`num_rows` counts the embedding's rows, `num_tokens` those that mean something.

    Of each head `rotary_dims` values are rotated, all when 0.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    feed_forward_size: int
    context_length: int
    num_rows: int
    num_tokens: int
    rope_theta: float
    norm_eps: float
    rotary_dims: int = 0
    experts: Experts | None = None
    has_expert_bias: bool = False

    @property
    def q_size(self) -> int:
        """Rows of the query projection."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of the key projection and of the value projection."""
        return self.num_kv_heads * self.head_dim

    def entries(self, architecture: str) -> Iterator[Entry]:
        """The ``{arch}.*`` keys, and ``edge.num_tokens`` where some rows are padding."""
        counts = {
            keys.CONTEXT_LENGTH: self.context_length,
            keys.HIDDEN_SIZE: self.hidden_size,
            keys.NUM_LAYERS: self.num_layers,
            keys.FEED_FORWARD_SIZE: self.feed_forward_size,
            keys.NUM_HEADS: self.num_heads,
            keys.NUM_KV_HEADS: self.num_kv_heads,
            keys.HEAD_DIM: self.head_dim,
            keys.VALUE_DIM: self.head_dim,
            keys.ROPE_DIMS: self.rotary_dims or self.head_dim,
            keys.VOCAB_SIZE: self.num_rows,  # readers compare it with the tensor
        }
        for key, count in counts.items():
            yield Entry(key.format(arch=architecture), "u32", count)
        yield Entry(keys.CAUSAL.format(arch=architecture), "bool", False)
        yield Entry(keys.RMS_NORM_EPS.format(arch=architecture), "f32", self.norm_eps)
        yield Entry(keys.ROPE_THETA.format(arch=architecture), "f32", self.rope_theta)
        if self.experts:
            yield from mixtures.entries(architecture, self.experts)
            if self.has_expert_bias:
                yield from mixtures.bias_entries(self.experts)
        if self.num_tokens < self.num_rows:
            yield Entry(keys.NUM_TOKENS, "u32", self.num_tokens)


def read_num_kv_heads(config: ConfigReader, key: str, num_heads: int, default: int) -> int:
    """A divisor of the number of heads. Raises ModelFileError naming key and value."""
    num_kv_heads = config.count(key, num_heads, default)
    if num_heads % num_kv_heads:
        raise config.fault(key, f"a divisor of the {num_heads} heads")
    return num_kv_heads


def read_num_rows(config: ConfigReader, embedding: str, promised: int) -> int:
    """Rows of the tensor `embedding`; where that is missing, what config.json promises."""
    tensor = config.checkpoint.tensors.get(embedding)
    return tensor.shape[0] if tensor is not None and tensor.shape else promised


def read_num_tokens(config: ConfigReader, num_rows: int) -> int:
    """How many ids mean something: what vocab_size and the tokenizer say, the smaller.

    Raises ModelFileError when either goes beyond the embedding's `num_rows`.
    """
    num_tokens = config.count("vocab_size", MOST_ROWS)
    if num_tokens > num_rows:
        raise config.fault("vocab_size", f"at most the embedding's {num_rows} rows")
    config.require_rows_for_tokenizer(num_rows)
    tokenizer = config.checkpoint.tokenizer
    return min(num_tokens, tokenizer.largest_id + 1) if tokenizer else num_tokens


def head_is_embedding(config: ConfigReader, flag_key: str, head: str, embedding: str) -> bool:
    """True when the head is stored once, as the embedding.

    A head in the file is used whatever the flag says, since the flag is often wrong.
    """
    tensors = config.checkpoint.tensors
    flag = config.flag(flag_key, head not in tensors)
    if head not in tensors:
        return flag
    return embedding in tensors and are_equal(tensors[head], tensors[embedding])

"""LLaDA and LLaDA-shaped masked denoisers (``LLaDAModelLM``).

RMSNorm, SwiGLU, rotary positions in half-split form, no biases, every position sees every other.
Facts: the modelling and configuration files published with GSAI-ML/LLaDA-8B. A head beside a
`weight_tying` flag is used, since the flag is often wrong; the number of rows comes from the
embedding tensor, which may be padded beyond `vocab_size`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.metadata import Entry
from convert.models.base import Choices, ConfigReader, Role, Spec, TensorSpec
from convert.models.diffusion import DiffusionReader
from edge.errors import ModelFileError, RequestError
from edge.formats import keys

PLAIN = "llada"  # what stock llama.cpp runs too: adjacent-pair rotation
EXTENDED = "edge-llama"  # what only this runtime runs: half-split rotation

_ROOT = "model.transformer"
_EMBEDDING = f"{_ROOT}.wte.weight"
_POSITIONS = f"{_ROOT}.wpe.weight"
_HEAD = f"{_ROOT}.ff_out.weight"

_MUST_BE = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
}
_MAY_ONLY_BE = {
    "block_group_size": 1,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "layer_norm_with_affine": True,
    "clip_qkv": None,
    "rope_scaling": None,
    "quantization_config": None,
}
_MOST_LAYERS = 4096
_MOST_HEADS = 16384
_WIDEST = 1 << 20
_LONGEST = 1 << 24
_MOST_ROWS = 1 << 24


@dataclass(frozen=True)
class _Shape:
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    num_layers: int
    feed_forward_size: int
    context_length: int
    num_rows: int
    num_tokens: int
    rope_theta: float
    norm_eps: float
    has_positions: bool

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


def build(checkpoint: Checkpoint, choices: Choices) -> Spec:
    """Declare the tensors and keys of a LLaDA checkpoint.

    Raises UnsupportedModelError for what the runtime does not do, ModelFileError for values that
    cannot be, RequestError for a choice of the caller that cannot be.
    """
    config = ConfigReader(checkpoint)
    _refuse_unsupported(config)
    shape = _read_shape(config)
    config.require_rows_for_tokenizer(shape.num_rows)
    diffusion = DiffusionReader(
        config, choices, longest=shape.context_length, num_rows=shape.num_rows
    ).entries()
    in_place = diffusion[keys.CANVAS].value == "in_place"
    architecture = EXTENDED if shape.has_positions or in_place else PLAIN
    tied = _head_is_embedding(config)
    return Spec(
        architecture=architecture,
        tensors=tuple(_tensors(shape, has_head=not tied, paired=architecture == PLAIN)),
        entries=(
            *_shape_entries(architecture, shape),
            *diffusion.values(),
            *_token_entries(config, choices, shape),
        ),
        dropped=frozenset({_HEAD} if tied else ()),
    )


def _refuse_unsupported(config: ConfigReader) -> None:
    for key, value in _MUST_BE.items():
        if config.get(key) is None:
            raise config.fault(key, shown(value))
    config.require(_MUST_BE)
    config.require({k: v for k, v in _MAY_ONLY_BE.items() if config.get(k) is not None})


def _read_shape(config: ConfigReader) -> _Shape:
    hidden_size = config.count("d_model", _WIDEST)
    num_heads = config.count("n_heads", _MOST_HEADS)
    if hidden_size % num_heads or hidden_size // num_heads % 2:
        raise config.fault("n_heads", f"a number that gives d_model {hidden_size} even heads")
    one_kv_head = config.flag("multi_query_attention", False)
    num_kv_heads = config.count("n_kv_heads", num_heads, 1 if one_kv_head else num_heads)
    if num_heads % num_kv_heads:
        raise config.fault("n_kv_heads", f"a divisor of n_heads {num_heads}")
    num_tokens = config.count("vocab_size", _MOST_ROWS)
    num_rows = _num_rows(config, num_tokens)
    if num_tokens > num_rows:
        raise config.fault("vocab_size", f"at most the embedding's {num_rows} rows")
    return _Shape(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        num_layers=config.count("n_layers", _MOST_LAYERS),
        feed_forward_size=_feed_forward_size(config, hidden_size),
        context_length=config.count("max_sequence_length", _LONGEST),
        num_rows=num_rows,
        num_tokens=num_tokens,
        rope_theta=config.number("rope_theta", 1.0, 1e30),
        norm_eps=config.number("rms_norm_eps", 1e-30, 1.0),
        has_positions=config.flag("learned_position_table", False),
    )


def _feed_forward_size(config: ConfigReader, hidden_size: int) -> int:
    if config.get("mlp_hidden_size") is not None or config.get("mlp_ratio") is None:
        return config.count("mlp_hidden_size", _WIDEST)
    return config.count("mlp_ratio", _WIDEST // hidden_size) * hidden_size


def _num_rows(config: ConfigReader, num_tokens: int) -> int:
    """The embedding tensor's row count; where it is missing, what config.json promises."""
    embedding = config.checkpoint.tensors.get(_EMBEDDING)
    if embedding is not None and embedding.shape:
        return embedding.shape[0]
    return config.count("embedding_size", _MOST_ROWS, num_tokens)


def _head_is_embedding(config: ConfigReader) -> bool:
    """True when the head is stored once, as the embedding."""
    tensors = config.checkpoint.tensors
    flag = config.flag("weight_tying", _HEAD not in tensors)
    if _HEAD not in tensors:
        return flag
    return _EMBEDDING in tensors and tensors[_HEAD].equals(tensors[_EMBEDDING])


def _tensors(shape: _Shape, *, has_head: bool, paired: bool) -> Iterator[TensorSpec]:
    hidden = shape.hidden_size
    yield TensorSpec(_EMBEDDING, "token_embd.weight", (shape.num_rows, hidden), "embedding")
    if shape.has_positions:
        rows = shape.context_length
        yield TensorSpec(_POSITIONS, "position_embd.weight", (rows, hidden), "table")
    for layer in range(shape.num_layers):
        yield from _layer_tensors(shape, layer, paired)
    yield TensorSpec(f"{_ROOT}.ln_f.weight", "output_norm.weight", (hidden,), "norm")
    if has_head:
        yield TensorSpec(_HEAD, "output.weight", (shape.num_rows, hidden), "head")


def _layer_tensors(shape: _Shape, layer: int, paired: bool) -> Iterator[TensorSpec]:
    hidden, wide = shape.hidden_size, shape.feed_forward_size
    kv_size = shape.num_kv_heads * shape.head_dim
    q_heads, k_heads = (shape.num_heads, shape.num_kv_heads) if paired else (0, 0)

    def tensor(source: str, target: str, *size: int, rope_heads: int = 0) -> TensorSpec:
        role: Role = "norm" if len(size) == 1 else "linear"
        source = f"{_ROOT}.blocks.{layer}.{source}.weight"
        return TensorSpec(source, f"blk.{layer}.{target}.weight", size, role, rope_heads)

    yield tensor("attn_norm", "attn_norm", hidden)
    yield tensor("q_proj", "attn_q", hidden, hidden, rope_heads=q_heads)
    yield tensor("k_proj", "attn_k", kv_size, hidden, rope_heads=k_heads)
    yield tensor("v_proj", "attn_v", kv_size, hidden)
    yield tensor("attn_out", "attn_output", hidden, hidden)
    yield tensor("ff_norm", "ffn_norm", hidden)
    yield tensor("ff_proj", "ffn_gate", wide, hidden)
    yield tensor("up_proj", "ffn_up", wide, hidden)
    yield tensor("ff_out", "ffn_down", hidden, wide)


def _shape_entries(architecture: str, shape: _Shape) -> Iterator[Entry]:
    counts = {
        keys.CONTEXT_LENGTH: shape.context_length,
        keys.HIDDEN_SIZE: shape.hidden_size,
        keys.NUM_LAYERS: shape.num_layers,
        keys.FEED_FORWARD_SIZE: shape.feed_forward_size,
        keys.NUM_HEADS: shape.num_heads,
        keys.NUM_KV_HEADS: shape.num_kv_heads,
        keys.HEAD_DIM: shape.head_dim,
        keys.VALUE_DIM: shape.head_dim,
        keys.ROPE_DIMS: shape.head_dim,
        keys.VOCAB_SIZE: shape.num_rows,  # readers compare it with the tensor
    }
    for key, count in counts.items():
        yield Entry(key.format(arch=architecture), "u32", count)
    yield Entry(keys.CAUSAL.format(arch=architecture), "bool", False)
    yield Entry(keys.RMS_NORM_EPS.format(arch=architecture), "f32", shape.norm_eps)
    yield Entry(keys.ROPE_THETA.format(arch=architecture), "f32", shape.rope_theta)
    if shape.num_tokens < shape.num_rows:
        yield Entry(keys.NUM_TOKENS, "u32", shape.num_tokens)


def _token_entries(config: ConfigReader, choices: Choices, shape: _Shape) -> Iterator[Entry]:
    yield Entry(keys.MASK_TOKEN_ID, "u32", _mask_token_id(config, choices, shape))
    eos = config.get("eos_token_id")
    if isinstance(eos, list):
        eos = eos[0] if eos else None
    if eos is not None:
        yield Entry(keys.EOS_TOKEN_ID, "u32", eos)
    padding = config.token_id("pad_token_id", shape.num_rows)
    if padding is not None:
        yield Entry(keys.PADDING_TOKEN_ID, "u32", padding)


def _mask_token_id(config: ConfigReader, choices: Choices, shape: _Shape) -> int:
    chosen = choices.mask_token_id
    if chosen is not None:
        if not 0 <= chosen < shape.num_rows:
            what = f"mask token id {chosen} is outside the embedding's {shape.num_rows} rows"
            raise RequestError(what, hint=f"give --mask-token-id 0 to {shape.num_rows - 1}")
        return chosen
    found = config.token_id("mask_token_id", shape.num_rows)
    if found is None:
        path = config.checkpoint.config_path
        hint = "give it with --mask-token-id N"
        raise ModelFileError(path, None, "config.json has no mask_token_id", hint=hint)
    return found

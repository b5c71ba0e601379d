"""LLaDA and LLaDA-shaped masked denoisers (``LLaDAModelLM``).

RMSNorm, SwiGLU, rotary positions in half-split form, no biases, every position sees every other.
Facts: the modelling and configuration files published with GSAI-ML/LLaDA-8B. A head beside a
`weight_tying` flag is used, since the flag is often wrong; the number of rows comes from the
embedding tensor, which may be padded beyond `vocab_size`.
"""

from __future__ import annotations

from collections.abc import Iterator

from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.models import shape as sizes
from convert.models.base import Choices, ConfigReader, Role, Spec, TensorSpec
from convert.models.diffusion import DiffusionReader
from convert.models.shape import DenseShape
from convert.models.tokens import read_special_tokens
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
# No model with these tensor names was published for another process.
_PROCESS = {keys.NOISE: "mask", keys.ATTENTION: "full", keys.SHIFT_LOGITS: False}


def build(checkpoint: Checkpoint, choices: Choices) -> Spec:
    """Declare the tensors and keys of a LLaDA checkpoint.

    Raises UnsupportedModelError for what the runtime does not do, ModelFileError for values that
    cannot be, RequestError for a choice of the caller that cannot be.
    """
    config = ConfigReader(checkpoint)
    _refuse_unsupported(config)
    shape = _read_shape(config)
    tokens = read_special_tokens(config, choices, shape.num_rows)
    diffusion = DiffusionReader(
        config,
        choices,
        longest_key="max_sequence_length",
        longest=shape.context_length,
        num_rows=shape.num_rows,
        eos_ids=tokens.eos,
        supported=_PROCESS,
    ).entries()
    has_positions = config.flag("learned_position_table", False)
    in_place = diffusion[keys.CANVAS].value == "in_place"
    architecture = EXTENDED if has_positions or in_place else PLAIN
    tied = sizes.head_is_embedding(config, "weight_tying", _HEAD, _EMBEDDING)
    return Spec(
        architecture=architecture,
        num_rows=shape.num_rows,
        tensors=tuple(
            _tensors(
                shape,
                has_positions=has_positions,
                has_head=not tied,
                paired=architecture == PLAIN,
            )
        ),
        entries=(*shape.entries(architecture), *diffusion.values(), *tokens.entries()),
        dropped=frozenset({_HEAD} if tied else ()),
    )


def _refuse_unsupported(config: ConfigReader) -> None:
    for key, value in _MUST_BE.items():
        if config.get(key) is None:
            raise config.fault(key, shown(value))
    config.require(_MUST_BE)
    config.require({k: v for k, v in _MAY_ONLY_BE.items() if config.get(k) is not None})


def _read_shape(config: ConfigReader) -> DenseShape:
    hidden_size = config.count("d_model", sizes.WIDEST)
    num_heads = config.count("n_heads", sizes.MOST_HEADS)
    if hidden_size % num_heads or hidden_size // num_heads % 2:
        raise config.fault("n_heads", f"a number that gives d_model {hidden_size} even heads")
    num_rows = _num_rows(config)
    return DenseShape(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=sizes.read_num_kv_heads(
            config,
            "n_kv_heads",
            num_heads,
            default=1 if config.flag("multi_query_attention", False) else num_heads,
        ),
        head_dim=hidden_size // num_heads,
        num_layers=config.count("n_layers", sizes.MOST_LAYERS),
        feed_forward_size=_feed_forward_size(config, hidden_size),
        context_length=config.count("max_sequence_length", sizes.LONGEST),
        num_rows=num_rows,
        num_tokens=sizes.read_num_tokens(config, num_rows),
        rope_theta=config.number("rope_theta", 1.0, 1e30),
        norm_eps=config.number("rms_norm_eps", 1e-30, 1.0),
    )


def _feed_forward_size(config: ConfigReader, hidden_size: int) -> int:
    if config.get("mlp_hidden_size") is not None or config.get("mlp_ratio") is None:
        return config.count("mlp_hidden_size", sizes.WIDEST)
    return config.count("mlp_ratio", sizes.WIDEST // hidden_size) * hidden_size


def _num_rows(config: ConfigReader) -> int:
    promised = config.count("vocab_size", sizes.MOST_ROWS)
    promised = config.count("embedding_size", sizes.MOST_ROWS, promised)
    return sizes.read_num_rows(config, _EMBEDDING, promised)


def _tensors(
    shape: DenseShape, *, has_positions: bool, has_head: bool, paired: bool
) -> Iterator[TensorSpec]:
    hidden = shape.hidden_size
    yield TensorSpec(_EMBEDDING, "token_embd.weight", (shape.num_rows, hidden), "embedding")
    if has_positions:
        rows = shape.context_length
        yield TensorSpec(_POSITIONS, "position_embd.weight", (rows, hidden), "table")
    for layer in range(shape.num_layers):
        yield from _layer_tensors(shape, layer, paired)
    yield TensorSpec(f"{_ROOT}.ln_f.weight", "output_norm.weight", (hidden,), "norm")
    if has_head:
        yield TensorSpec(_HEAD, "output.weight", (shape.num_rows, hidden), "head")


def _layer_tensors(shape: DenseShape, layer: int, paired: bool) -> Iterator[TensorSpec]:
    hidden, wide = shape.hidden_size, shape.feed_forward_size
    q_heads, k_heads = (shape.num_heads, shape.num_kv_heads) if paired else (0, 0)

    def tensor(source: str, target: str, *size: int, rope_heads: int = 0) -> TensorSpec:
        role: Role = "norm" if len(size) == 1 else "linear"
        source = f"{_ROOT}.blocks.{layer}.{source}.weight"
        return TensorSpec(source, f"blk.{layer}.{target}.weight", size, role, rope_heads)

    yield tensor("attn_norm", "attn_norm", hidden)
    yield tensor("q_proj", "attn_q", hidden, hidden, rope_heads=q_heads)
    yield tensor("k_proj", "attn_k", shape.kv_size, hidden, rope_heads=k_heads)
    yield tensor("v_proj", "attn_v", shape.kv_size, hidden)
    yield tensor("attn_out", "attn_output", hidden, hidden)
    yield tensor("ff_norm", "ffn_norm", hidden)
    yield tensor("ff_proj", "ffn_gate", wide, hidden)
    yield tensor("up_proj", "ffn_up", wide, hidden)
    yield tensor("ff_out", "ffn_down", hidden, wide)

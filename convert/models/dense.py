"""Denoisers with the tensor names of Llama, Qwen2 and Qwen3, or names that stand for those.

RMSNorm, grouped heads, rotary positions in half-split form, SwiGLU; with or without biases of
q, k and v, with or without a norm of each head of q and k, with or without experts. Facts: the
modelling files of those families, and the checkpoints published with Dream, dllm (A2D), SDAR,
Fast-dLLM v2, LLaDA-MoE, LLaDA2 and RND1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.metadata import Entry
from convert.models import experts as mixtures
from convert.models import loops, positions
from convert.models import shape as sizes
from convert.models.base import Choices, ConfigReader, Spec, TensorSpec, folded
from convert.models.diffusion import DiffusionReader
from convert.models.gate import gate_entries, gate_tensors
from convert.models.shape import DenseShape
from convert.models.tokens import read_special_tokens
from edge.errors import UnsupportedModelError
from edge.formats import keys
from edge.formats.experts import Experts

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_DRAFTING_ADAPTER = ".linear_spec_lora"
_LONGEST_KEY = "max_position_embeddings"
_UNSUPPORTED_SUFFIXES = (
    ".self_attn.o_proj.bias",
    ".mlp.gate_proj.bias",
    ".mlp.up_proj.bias",
    ".mlp.down_proj.bias",
)
_MAY_ONLY_BE: dict[str, object] = {"mlp_bias": False, "quantization_config": None}
_THETAS = (1.0, 1e30)
_NOISE: dict[str, object] = {keys.NOISE: "mask"}
_CAUSAL: dict[str, object] = {keys.ATTENTION: "causal_context"}
_CANNOT = "this kind of model cannot be converted"

Loop = Callable[[ConfigReader, Choices, int], dict[str, object]]
ReadExperts = Callable[[ConfigReader, int], Experts]


@dataclass(frozen=True)
class Family:
    """One published class: a base shape and the loop it was trained for.

    `public_name` is the architecture under which stock llama.cpp runs it too, where it can.
    An `autoregressive` class is refused unless something says that the model is a denoiser.
    `root` and `head` are what its checkpoints call the network below the head, and the head;
    `source_names` are further parts of this module's tensor names and what the class has in their
    place. `note` may have something to tell the user. `experts` reads what its mixtures are, and
    `feed_forward_key` names the width of layers without any.
    """

    architecture: str
    loop: Loop
    qkv_bias: bool = False
    qk_norm: bool = False
    public_name: str = ""
    autoregressive: bool = False
    root: str = "model"
    head: str = "lm_head"
    note: Callable[[ConfigReader, Choices], str] | None = None
    source_names: tuple[tuple[str, str], ...] = ()
    experts: ReadExperts | None = None
    feed_forward_key: str = "intermediate_size"
    partial_rotary: bool = False

    def build(self, checkpoint: Checkpoint, choices: Choices) -> Spec:
        """Declare the tensors and keys of a checkpoint.

        Raises UnsupportedModelError for what the runtime does not do, ModelFileError for values
        that cannot be, RequestError for a choice of the caller that cannot be.
        """
        config = ConfigReader(checkpoint)
        gate = checkpoint.gate
        if self.autoregressive and gate is None:
            loops.refuse_untold(config, choices)
        if gate is not None and choices.mask_token_id is None:
            choices = replace(choices, mask_token_id=gate.mask_token_id)
        _refuse_unsupported(config, self.partial_rotary)
        embedding, head = self._named(_EMBEDDING), self._named(_HEAD)
        shape = self._read_shape(config, embedding)
        tokens = read_special_tokens(config, choices, shape.num_rows)
        diffusion = DiffusionReader(
            config,
            choices,
            longest_key=_LONGEST_KEY,
            longest=shape.context_length,
            num_rows=shape.num_rows,
            eos_ids=tokens.eos,
            defaults=(loops.gated if gate else self.loop)(config, choices, shape.context_length),
            supported=_NOISE | _CAUSAL if gate else _NOISE,
        ).entries()
        architecture = self._name(shape, diffusion)
        tied = sizes.head_is_embedding(config, "tie_word_embeddings", head, embedding)
        qkv_bias = self.qkv_bias or config.flag("attention_bias", False)
        notes = [self.note(config, choices) if self.note else "", gate.note if gate else ""]
        adapter = _drafting_adapter(checkpoint)
        notes += [f"left out: {len(adapter)} tensors of an adapter for drafts"] if adapter else []
        standard = tensors_of(shape, qkv_bias, self.qk_norm, has_head=not tied)
        plain = tuple(replace(each, source=self._named(each.source)) for each in standard)
        return Spec(
            architecture=architecture,
            num_rows=shape.num_rows,
            tensors=(*plain, *gate_tensors(gate, plain)),
            entries=(
                *shape.entries(architecture),
                *positions.entries(config, architecture, shape.context_length),
                *diffusion.values(),
                *tokens.entries(),
                *gate_entries(gate),
            ),
            dropped=frozenset({head} if tied else ()) | adapter,
            notes=tuple(filter(None, notes)),
        )

    def _named(self, standard: str) -> str:
        """What its checkpoints call a tensor with such a name in Llama's."""
        if standard == _HEAD:
            return f"{self.head}.weight"
        name = standard.replace("model.", f"{self.root}.", 1)
        for ours, theirs in self.source_names:
            name = name.replace(ours, theirs)
        return name

    def _name(self, shape: DenseShape, diffusion: dict[str, Entry]) -> str:
        """llama.cpp derives the head's size and sees a whole canvas behind a prompt."""
        stock = (
            (shape.q_size == shape.hidden_size or self.experts is mixtures.read_qwen3_moe)
            and self._has_stock_experts(shape)
            and diffusion[keys.ATTENTION].value == "full"
            and diffusion[keys.CANVAS].value == "append"
        )
        return self.public_name if self.public_name and stock else self.architecture

    def _has_stock_experts(self, shape: DenseShape) -> bool:
        """Whether llama.cpp's router of that name does what this one does."""
        if shape.experts is None:
            return True
        plain = Experts(
            shape.experts.num_experts,
            shape.experts.num_used,
            shape.experts.size,
            renormalises=self.experts is mixtures.read_qwen3_moe,
            bias_counts=shape.experts.bias_counts,
        )
        return shape.experts == plain and not shape.has_expert_bias and not shape.rotary_dims

    def _read_shape(self, config: ConfigReader, embedding: str) -> DenseShape:
        num_layers = config.count("num_hidden_layers", sizes.MOST_LAYERS)
        experts = self.experts(config, num_layers) if self.experts else None
        spare = experts.num_used * experts.size if experts else None
        default = None if experts and experts.num_dense_layers else spare
        shape = _read_shape(
            config,
            embedding,
            config.count(self.feed_forward_key, sizes.WIDEST, default),
        )
        if self.partial_rotary:
            shape = replace(shape, rotary_dims=_rotary_dims(config, shape.head_dim))
        if experts is None:
            return shape
        layer = f"model.layers.{experts.num_dense_layers}.mlp.gate.expert_bias"
        has_bias = self._named(layer) in config.checkpoint.tensors
        return replace(shape, experts=experts, has_expert_bias=has_bias)


def _refuse_unsupported(config: ConfigReader, partial_rotary: bool) -> None:
    if config.get("hidden_act") is None:
        raise config.fault("hidden_act", shown("silu"))
    config.require({"hidden_act": "silu"})
    config.require({k: v for k, v in _MAY_ONLY_BE.items() if config.get(k) is not None})
    rope_faults = positions.faults(config, partial_rotary=partial_rotary)
    faults = (*rope_faults, *_window_faults(config), *_bias_faults(config))
    if faults:
        path = config.checkpoint.config_path
        raise UnsupportedModelError(", ".join(faults), path=path, hint=_CANNOT)


def _bias_faults(config: ConfigReader) -> Iterator[str]:
    tensors = config.checkpoint.tensors
    biases = folded(name for name in tensors if name.endswith(_UNSUPPORTED_SUFFIXES))
    if biases:
        yield f"{biases[0][:200]} is there (only biases of q, k and v are supported)"


def _window_faults(config: ConfigReader) -> Iterator[str]:
    window = config.get("sliding_window")
    # Qwen2 names a window that its switch leaves unused; without the switch the window counts
    if config.flag("use_sliding_window", window is not None):
        yield f"use_sliding_window is true, sliding_window is {shown(window)} (false is supported)"
    kinds = config.get("layer_types")
    if not isinstance(kinds, list | None):
        raise config.fault("layer_types", "a list")
    if others := [kind for kind in kinds or () if kind != "full_attention"]:
        yield f'layer_types has {shown(others[0])} ("full_attention" is supported)'


def _drafting_adapter(checkpoint: Checkpoint) -> frozenset[str]:
    """Of Nemotron-Labs-Diffusion: it changes drafts only, never what is verified."""
    return frozenset(name for name in checkpoint.tensors if _DRAFTING_ADAPTER in name)


def _read_shape(config: ConfigReader, embedding: str, feed_forward_size: int) -> DenseShape:
    hidden_size = config.count("hidden_size", sizes.WIDEST)
    num_heads = config.count("num_attention_heads", sizes.MOST_HEADS)
    promised = config.count("vocab_size", sizes.MOST_ROWS)
    num_rows = sizes.read_num_rows(config, embedding, promised)
    return DenseShape(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=sizes.read_num_kv_heads(config, "num_key_value_heads", num_heads, num_heads),
        head_dim=_head_dim(config, hidden_size, num_heads),
        num_layers=config.count("num_hidden_layers", sizes.MOST_LAYERS),
        feed_forward_size=feed_forward_size,
        context_length=config.count(_LONGEST_KEY, sizes.LONGEST),
        num_rows=num_rows,
        num_tokens=sizes.read_num_tokens(config, num_rows),
        rope_theta=_rope_theta(config),
        norm_eps=config.number("rms_norm_eps", 1e-30, 1.0),
    )


def _head_dim(config: ConfigReader, hidden_size: int, num_heads: int) -> int:
    if config.get("head_dim") is not None:
        head_dim = config.count("head_dim", sizes.WIDEST)
        if head_dim % 2:
            raise config.fault("head_dim", "an even number")
        return head_dim
    if hidden_size % num_heads or hidden_size // num_heads % 2:
        wanted = f"a number that gives hidden_size {hidden_size} even heads"
        raise config.fault("num_attention_heads", wanted)
    return hidden_size // num_heads


def _rotary_dims(config: ConfigReader, head_dim: int) -> int:
    """How much of each head is rotated, 0 for all."""
    nested = config.within("rope_parameters")
    reader = config if nested.get("partial_rotary_factor") is None else nested
    if reader.get("partial_rotary_factor") is None:
        return 0
    dims = int(head_dim * reader.number("partial_rotary_factor", 1e-9, 1.0))
    if dims % 2 or dims < 2:
        raise reader.fault("partial_rotary_factor", f"an even part of heads of {head_dim}")
    return 0 if dims == head_dim else dims


def _rope_theta(config: ConfigReader) -> float:
    """``rope_theta``, which newer files keep in ``rope_parameters``."""
    nested = config.within("rope_parameters")
    if nested.get("rope_theta") is None:
        return config.number("rope_theta", *_THETAS)
    theta = nested.number("rope_theta", *_THETAS)
    if config.get("rope_theta") not in (None, theta):
        raise config.fault("rope_theta", f"the {theta:g} of rope_parameters")
    return theta


def tensors_of(
    shape: DenseShape, qkv_bias: bool, qk_norm: bool, *, has_head: bool
) -> Iterator[TensorSpec]:
    """What a network of these sizes consists of, in the order of the file."""
    hidden = shape.hidden_size
    yield TensorSpec(_EMBEDDING, "token_embd.weight", (shape.num_rows, hidden), "embedding")
    for layer in range(shape.num_layers):
        for name, target, role, size in _layer_tensors(shape, qkv_bias, qk_norm, layer):
            yield TensorSpec(f"model.layers.{layer}.{name}", f"blk.{layer}.{target}", size, role)
    yield TensorSpec("model.norm.weight", "output_norm.weight", (hidden,), "norm")
    if has_head:
        yield TensorSpec(_HEAD, "output.weight", (shape.num_rows, hidden), "head")


def _layer_tensors(
    shape: DenseShape, qkv_bias: bool, qk_norm: bool, layer: int
) -> Iterator[mixtures.LayerTensor]:
    """Name and target within a layer, role and size."""
    hidden, wide, head_dim = shape.hidden_size, shape.feed_forward_size, shape.head_dim
    rows = {"q": shape.q_size, "k": shape.kv_size, "v": shape.kv_size}
    yield "input_layernorm.weight", "attn_norm.weight", "norm", (hidden,)
    for x, size in rows.items():
        yield f"self_attn.{x}_proj.weight", f"attn_{x}.weight", "linear", (size, hidden)
        if qkv_bias:
            yield f"self_attn.{x}_proj.bias", f"attn_{x}.bias", "bias", (size,)
    if qk_norm:
        for x in "qk":
            yield f"self_attn.{x}_norm.weight", f"attn_{x}_norm.weight", "norm", (head_dim,)
    yield "self_attn.o_proj.weight", "attn_output.weight", "linear", (hidden, shape.q_size)
    yield "post_attention_layernorm.weight", "ffn_norm.weight", "norm", (hidden,)
    experts = shape.experts
    if experts and layer >= experts.num_dense_layers:
        yield from mixtures.layer_tensors(experts, hidden, has_bias=shape.has_expert_bias)
    else:
        yield from mixtures.gated_tensors("mlp", "", wide, hidden)

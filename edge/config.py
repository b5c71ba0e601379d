"""What a model file says about its denoiser, read and checked once.

Nothing about a model is hard-coded in the runtime: what the file does not say has one default,
named here, or is an error. Every value is checked before a kernel or an allocation depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.experts import read_experts
from edge.formats import keys
from edge.formats.experts import Experts
from edge.formats.gguf_file import Header
from edge.key_reader import LARGEST, REQUIRED, KeyReader
from edge.positions import QueryScale, Yarn, read_query_scale, read_yarn


@dataclass(frozen=True)
class Family:
    """What an architecture name implies: a row of switches.

    A public llada file has the rows of q and k permuted for rope on adjacent pairs. ``shifts``
    is what a file without ``diffusion.shift_logits`` means, as in llama.cpp, and
    ``renormalises`` what one without ``expert_weights_norm`` does. With ``has_experts`` layers
    are mixtures of experts.
    """

    rope_pairs: str = "halves"
    qkv_bias: bool = False
    qk_norm: bool = False
    shifts: bool = False
    has_experts: bool = False
    renormalises: bool = False


ARCHITECTURES = {
    "llada": Family(rope_pairs="adjacent"),
    "dream": Family(qkv_bias=True, shifts=True),
    "llama": Family(rope_pairs="adjacent"),
    "edge-llama": Family(),
    "edge-qwen2": Family(qkv_bias=True),
    "edge-qwen3": Family(qk_norm=True),
    "llada-moe": Family(qk_norm=True, has_experts=True),
    "rnd1": Family(qk_norm=True, shifts=True, has_experts=True, renormalises=True),
    "edge-llada-moe": Family(qk_norm=True, has_experts=True),
    "edge-qwen3moe": Family(qk_norm=True, has_experts=True, renormalises=True),
    "edge-bailingmoe2": Family(qk_norm=True, has_experts=True),
}

DEFAULT_BLOCK_LENGTH = 32
DEFAULT_SAMPLER = "low_confidence_static"
DEFAULT_THRESHOLD = 0.9
DEFAULT_EDIT_THRESHOLD = 0.9
DEFAULT_POST_EDIT_STEPS = 16
DEFAULT_FACTOR = 1.0
DEFAULT_ENTROPY_BOUND = 0.1
DEFAULT_RANK = "confidence"
RANKS = ("confidence", "margin", "entropy", "random")


@dataclass(frozen=True)
class DenoiserSizes:
    """Sizes of a denoiser; ``vocab_size`` counts the embedding's rows.

    ``feed_forward_size`` is that of layers without experts.
    """

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    feed_forward_size: int
    vocab_size: int
    context_length: int
    experts: Experts | None = field(default=None, kw_only=True)

    @property
    def linear_weights(self) -> int:
        """Weights of all layers' matrices that a row is multiplied with."""
        return round(self.weights_with(self.experts.num_used if self.experts else 0))

    def touched_weights(self, rows: int) -> float:
        """How many of the layers' weights so many rows need, if they choose experts evenly."""
        return self.weights_with(self.experts.touched_by(rows) if self.experts else 0)

    def weights_with(self, num_experts: float) -> float:
        """Of all layers' matrices, with so many experts in each layer that has some."""
        query, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        per_hidden: float = self.num_layers * (2 * query + 2 * kv)
        dense = self.num_layers
        if experts := self.experts:
            dense = experts.num_dense_layers
            each = experts.num_experts + 3 * (num_experts * experts.size + experts.shared_size)
            per_hidden += (self.num_layers - dense) * each
        return self.hidden_size * (per_hidden + 3 * dense * self.feed_forward_size)


@dataclass(frozen=True)
class DenoiserConfig(DenoiserSizes):
    """Sizes of a denoiser and what else its layers compute by.

    With a ``gate_rank`` above 0 the rows of mask tokens get an adapter of at most that rank, and
    see all of their canvas; all others run the plain weights and see what stands before them.
    Of each head the first ``rotary_dims`` values are rotated.
    """

    rms_norm_eps: float
    rope_theta: float
    rope_pairs: str
    rotary_dims: int
    qkv_bias: bool
    qk_norm: bool
    gate_rank: int = 0
    yarn: Yarn | None = None
    query_scale: QueryScale | None = None


@dataclass(frozen=True)
class DiffusionConfig:
    """How the denoiser was trained to be used, and the file's defaults for doing so.

    ``attention`` says what committed text sees: ``full`` everything, ``block`` its own and
    earlier blocks, ``causal_context`` itself and what stands before it. Blocks are aligned to
    position 0 (``absolute``) or to the end of the prompt (``prompt_end``). With
    ``shift_logits`` row i - 1 predicts position i.
    """

    noise: str
    attention: str
    canvas: str
    canvas_length: int | None
    block_length: int
    block_align: str
    sub_block_length: int | None
    shift_logits: bool
    sampler: str
    steps_per_block: int | None
    threshold: float
    edit_threshold: float
    post_edit_steps: int
    factor: float
    entropy_bound: float
    rank: str
    mask_token_id: int
    eos_ids: tuple[int, ...]

    @property
    def in_place(self) -> bool:
        """The prompt is the canvas: its mask tokens are the holes, nothing is appended."""
        return self.canvas == "in_place"

    @property
    def caches(self) -> bool:
        """Committed blocks see nothing later, so their keys and values can be kept exactly."""
        return self.attention != "full"

    @property
    def fuses(self) -> bool:
        """A finished block can be stored by the forward that begins the next one.

        Its rows attend as when stored alone, and nothing of theirs is needed before.
        """
        return self.attention == "block" and not self.carries

    def draft_rows(self, num_tokens: int) -> int:
        """Rows of mask tokens that say what may come after a text's next token."""
        return num_tokens + (not self.shift_logits) if num_tokens else 0

    @property
    def carries(self) -> bool:
        """The forward that stores a block also predicts the first token of the next."""
        return self.caches and (self.shift_logits or self.attention == "causal_context")


@dataclass(frozen=True)
class ModelConfig:
    """Everything the runtime needs to know; ``num_tokens`` ids mean something, the rest pads."""

    name: str
    denoiser: DenoiserConfig
    diffusion: DiffusionConfig
    num_tokens: int
    task: str | None


def read_config(header: Header) -> ModelConfig:
    """Read and check a file's metadata.

    Raises ModelFileError naming key and value, UnsupportedModelError for what cannot be run.
    """
    reader = _Keys(header)
    denoiser = _read_denoiser(reader)
    num_tokens = reader.integer(
        keys.NUM_TOKENS, default=denoiser.vocab_size, high=denoiser.vocab_size
    )
    diffusion = _read_diffusion(reader, denoiser)
    if num_tokens == 1 and diffusion.mask_token_id == 0:
        raise reader.fail(keys.NUM_TOKENS, "is 1, and that one is the mask token")
    return ModelConfig(
        name=reader.text(keys.NAME, default=denoiser.architecture),
        denoiser=denoiser,
        diffusion=diffusion,
        num_tokens=num_tokens,
        task=reader.text(keys.TASK, default=None),
    )


class _Keys(KeyReader):
    """The keys of a file whose architecture is known."""

    def __init__(self, header: Header) -> None:
        super().__init__(header, ARCHITECTURES)
        self.family = ARCHITECTURES[self.architecture]


def _read_denoiser(reader: _Keys) -> DenoiserConfig:
    hidden_size = reader.integer(keys.HIDDEN_SIZE)
    num_heads = reader.integer(keys.NUM_HEADS)
    num_kv_heads = reader.integer(keys.NUM_KV_HEADS, default=num_heads)
    head_dim = reader.integer(keys.HEAD_DIM, default=hidden_size // num_heads or None)
    if num_heads % num_kv_heads:
        raise reader.fail(
            keys.NUM_KV_HEADS, f"is {num_kv_heads}, which does not divide {num_heads} heads"
        )
    if head_dim % 2:
        raise reader.fail(keys.HEAD_DIM, f"is {head_dim}, not an even number")
    rope_theta = reader.positive(keys.ROPE_THETA, default=10000.0)
    if reader.integer(keys.VALUE_DIM, default=head_dim) != head_dim:
        value_dim = reader.integer(keys.VALUE_DIM)
        raise reader.unsupported(keys.VALUE_DIM, value_dim, f"only the head's {head_dim}")
    num_layers = reader.integer(keys.NUM_LAYERS, high=4096)
    experts = None
    if reader.family.has_experts:
        experts = read_experts(reader, num_layers, renormalises=reader.family.renormalises)
    return DenoiserConfig(
        architecture=reader.architecture,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        feed_forward_size=_feed_forward_size(reader, experts),
        vocab_size=reader.integer(keys.VOCAB_SIZE, default=reader.embedding_rows()),
        context_length=reader.integer(keys.CONTEXT_LENGTH),
        rms_norm_eps=reader.positive(keys.RMS_NORM_EPS, high=1.0),
        rope_theta=rope_theta,
        rope_pairs=reader.family.rope_pairs,
        rotary_dims=_rotary_dims(reader, head_dim),
        qkv_bias=reader.family.qkv_bias,
        qk_norm=reader.family.qk_norm,
        gate_rank=reader.integer(keys.GATE_RANK, default=0, low=0),
        yarn=read_yarn(reader, rope_theta, head_dim),
        query_scale=read_query_scale(reader),
        experts=experts,
    )


def _feed_forward_size(reader: _Keys, experts: Experts | None) -> int:
    """Files of which every layer has experts need not tell it."""
    unused = experts is not None and not experts.num_dense_layers
    default = experts.size if unused and experts else REQUIRED
    return reader.integer(keys.FEED_FORWARD_SIZE, default=default)


def _rotary_dims(reader: _Keys, head_dim: int) -> int:
    rotary_dims = reader.integer(keys.ROPE_DIMS, default=head_dim, high=head_dim)
    if rotary_dims % 2:
        raise reader.fail(keys.ROPE_DIMS, f"is {rotary_dims}, not an even number")
    return rotary_dims


def _read_diffusion(reader: _Keys, denoiser: DenoiserConfig) -> DiffusionConfig:
    canvas = _choice(reader, keys.CANVAS, "append", ("append", "in_place"))
    attention = _choice(reader, keys.ATTENTION, "full", ("full", "block", "causal_context"))
    if denoiser.gate_rank and denoiser.experts:
        raise reader.unsupported(keys.GATE_RANK, denoiser.gate_rank, "gated rows without experts")
    if denoiser.gate_rank and attention != "causal_context":
        raise reader.unsupported(keys.ATTENTION, attention, "causal_context with gated rows")
    canvas_length = None
    if canvas == "in_place":
        if attention != "full":
            raise reader.unsupported(keys.ATTENTION, attention, "full attention on such a canvas")
        canvas_length = reader.integer(keys.CANVAS_LENGTH, high=denoiser.context_length)
    block_length = reader.integer(keys.BLOCK_LENGTH, default=DEFAULT_BLOCK_LENGTH)
    return DiffusionConfig(
        noise=_choice(reader, keys.NOISE, "mask", ("mask",)),
        attention=attention,
        canvas=canvas,
        canvas_length=canvas_length,
        block_length=block_length,
        block_align=_choice(reader, keys.BLOCK_ALIGN, "prompt_end", ("prompt_end", "absolute")),
        sub_block_length=_optional_integer(reader, keys.SUB_BLOCK_LENGTH, high=block_length),
        shift_logits=reader.boolean(keys.SHIFT_LOGITS, default=reader.family.shifts),
        sampler=reader.text(keys.SAMPLER, default=DEFAULT_SAMPLER),
        steps_per_block=_optional_integer(reader, keys.STEPS_PER_BLOCK),
        threshold=reader.positive(keys.THRESHOLD, default=DEFAULT_THRESHOLD, high=1.0),
        edit_threshold=reader.positive(
            keys.EDIT_THRESHOLD, default=DEFAULT_EDIT_THRESHOLD, high=1.0
        ),
        post_edit_steps=reader.integer(
            keys.POST_EDIT_STEPS, default=DEFAULT_POST_EDIT_STEPS, low=0
        ),
        factor=reader.positive(keys.FACTOR, default=DEFAULT_FACTOR),
        entropy_bound=reader.positive(keys.ENTROPY_BOUND, default=DEFAULT_ENTROPY_BOUND),
        rank=_choice(reader, keys.RANK, DEFAULT_RANK, RANKS),
        mask_token_id=reader.integer(keys.MASK_TOKEN_ID, low=0, high=denoiser.vocab_size - 1),
        eos_ids=_read_eos_ids(reader, denoiser.vocab_size),
    )


def _choice(reader: _Keys, key: str, default: str, supported: tuple[str, ...]) -> str:
    value: str = reader.text(key, default=default)
    if value not in supported:
        raise reader.unsupported(key, value, " or ".join(supported))
    return value


def _optional_integer(reader: _Keys, key: str, high: int = LARGEST) -> int | None:
    # 0 is no number of steps and no length, so it can stand for "not given".
    return reader.integer(key, default=0, low=0, high=high) or None


def _read_eos_ids(reader: _Keys, vocab_size: int) -> tuple[int, ...]:
    listed = reader.ids(keys.EOS_IDS, vocab_size)
    if listed:
        return listed
    single = reader.integer(keys.EOS_TOKEN_ID, default=-1, low=-1, high=vocab_size - 1)
    return () if single < 0 else (single,)

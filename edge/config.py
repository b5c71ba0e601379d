"""What a model file says about its denoiser, read and checked once.

Nothing about a model is hard-coded in the runtime: what the file does not say has one default,
named here, or is an error. Every value is checked before a kernel or an allocation depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from reprlib import repr as shown  # never longer than a line
from typing import Any

from edge.errors import ModelFileError, UnsupportedModelError
from edge.formats import keys
from edge.formats.gguf_file import Header
from edge.positions import QueryScale, Yarn, read_query_scale, read_yarn


@dataclass(frozen=True)
class Family:
    """What an architecture name implies: a row of switches.

    A public llada file has the rows of q and k permuted for rope on adjacent pairs. ``shifts``
    is what a file without ``diffusion.shift_logits`` means, as in llama.cpp.
    """

    rope_pairs: str = "halves"
    qkv_bias: bool = False
    qk_norm: bool = False
    shifts: bool = False


ARCHITECTURES = {
    "llada": Family(rope_pairs="adjacent"),
    "dream": Family(qkv_bias=True, shifts=True),
    "llama": Family(rope_pairs="adjacent"),
    "edge-llama": Family(),
    "edge-qwen2": Family(qkv_bias=True),
    "edge-qwen3": Family(qk_norm=True),
}

DEFAULT_BLOCK_LENGTH = 32
DEFAULT_SAMPLER = "low_confidence_static"
DEFAULT_THRESHOLD = 0.9
DEFAULT_FACTOR = 1.0
DEFAULT_ENTROPY_BOUND = 0.1
DEFAULT_RANK = "confidence"
RANKS = ("confidence", "margin", "entropy", "random")

_MAX_SIZE = 1 << 28  # of any dimension; also the native engine's bound
_SMALLEST = 1e-30  # of a positive number; float32 holds it with full precision
_NO_SUCH_KEY = object()


@dataclass(frozen=True)
class DenoiserSizes:
    """Sizes of a dense denoiser; ``vocab_size`` counts the embedding's rows."""

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    feed_forward_size: int
    vocab_size: int
    context_length: int


@dataclass(frozen=True)
class DenoiserConfig(DenoiserSizes):
    """Sizes of a denoiser and what else its layers compute by.

    With a ``gate_rank`` above 0 the rows of mask tokens get an adapter of at most that rank, and
    see all of their canvas; all others run the plain weights and see what stands before them.
    """

    rms_norm_eps: float
    rope_theta: float
    rope_pairs: str
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


class _Keys:
    """Typed access to metadata; each failure names the key, what it holds, what is wanted."""

    def __init__(self, header: Header) -> None:
        self._path = header.path
        self._metadata: Mapping[str, Any] = header.metadata
        self._tensors = header.tensors
        self.architecture = self._one_of_known_architectures()
        self.family = ARCHITECTURES[self.architecture]

    def _one_of_known_architectures(self) -> str:
        architecture: str = self.text(keys.ARCHITECTURE)
        if architecture not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"the file holds a model of architecture {shown(architecture)}",
                path=self._path,
                hint=f"this version runs {', '.join(sorted(ARCHITECTURES))}",
            )
        return architecture

    def embedding_rows(self) -> object:
        """Rows of the embedding, which public files may leave to the tensor to say."""
        embedding = self._tensors.get("token_embd.weight")
        return _NO_SUCH_KEY if embedding is None else embedding.shape[0]

    def fail(self, key: str, problem: str) -> ModelFileError:
        return ModelFileError(self._path, None, f"key '{self._name(key)}' {problem}")

    def unsupported(self, key: str, value: object, supported: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"key '{self._name(key)}' is {shown(value)}",
            path=self._path,
            hint=f"this version runs {supported}",
        )

    def integer(
        self, key: str, *, default: object = _NO_SUCH_KEY, low: int = 1, high: int = _MAX_SIZE
    ) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(key, f"is {shown(value)}, not a whole number from {low} to {high}")
        return value

    def positive(self, key: str, *, default: object = _NO_SUCH_KEY, high: float = 1e30) -> float:
        value = self._get(key, default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not _SMALLEST <= value <= high:  # NaN is in no range
            raise self.fail(key, f"is {shown(value)}, not a number above 0 and up to {high:g}")
        return float(value)

    def text(self, key: str, *, default: Any = _NO_SUCH_KEY) -> Any:
        value = self._get(key, default)
        if value is not default and not isinstance(value, str):
            raise self.fail(key, f"is {shown(value)}, not a string")
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, f"is {shown(value)}, not true or false")
        return value

    def ids(self, key: str, high: int) -> tuple[int, ...]:
        values = self._get(key, ())
        try:
            listed = tuple(index(value) for value in values)
        except (TypeError, ValueError):
            raise self.fail(key, f"is {shown(values)}, not a list of token ids") from None
        if any(not 0 <= value < high for value in listed):
            raise self.fail(key, f"is {shown(listed)}, not a list of token ids below {high}")
        return listed

    def _get(self, key: str, default: object) -> Any:
        value = self._metadata.get(self._name(key), default)
        if value is _NO_SUCH_KEY:
            raise self.fail(key, "is missing")
        return value

    def _name(self, key: str) -> str:
        return key.format(arch=getattr(self, "architecture", ""))


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
    for key in (keys.VALUE_DIM, keys.ROPE_DIMS):
        if reader.integer(key, default=head_dim) != head_dim:
            raise reader.unsupported(key, reader.integer(key), f"only the head's {head_dim}")
    rope_theta = reader.positive(keys.ROPE_THETA, default=10000.0)
    return DenoiserConfig(
        architecture=reader.architecture,
        hidden_size=hidden_size,
        num_layers=reader.integer(keys.NUM_LAYERS, high=4096),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        feed_forward_size=reader.integer(keys.FEED_FORWARD_SIZE),
        vocab_size=reader.integer(keys.VOCAB_SIZE, default=reader.embedding_rows()),
        context_length=reader.integer(keys.CONTEXT_LENGTH),
        rms_norm_eps=reader.positive(keys.RMS_NORM_EPS, high=1.0),
        rope_theta=rope_theta,
        rope_pairs=reader.family.rope_pairs,
        qkv_bias=reader.family.qkv_bias,
        qk_norm=reader.family.qk_norm,
        gate_rank=reader.integer(keys.GATE_RANK, default=0, low=0),
        yarn=read_yarn(reader, rope_theta),
        query_scale=read_query_scale(reader),
    )


def _read_diffusion(reader: _Keys, denoiser: DenoiserConfig) -> DiffusionConfig:
    canvas = _choice(reader, keys.CANVAS, "append", ("append", "in_place"))
    attention = _choice(reader, keys.ATTENTION, "full", ("full", "block", "causal_context"))
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


def _optional_integer(reader: _Keys, key: str, high: int = _MAX_SIZE) -> int | None:
    # 0 is no number of steps and no length, so it can stand for "not given".
    return reader.integer(key, default=0, low=0, high=high) or None


def _read_eos_ids(reader: _Keys, vocab_size: int) -> tuple[int, ...]:
    listed = reader.ids(keys.EOS_IDS, vocab_size)
    if listed:
        return listed
    single = reader.integer(keys.EOS_TOKEN_ID, default=-1, low=-1, high=vocab_size - 1)
    return () if single < 0 else (single,)

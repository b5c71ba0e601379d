"""Speed of one denoising step by active rows and prefix, and of a short generation.

What a step could cost at best is taken from the machine itself, in the same run: the rate of the
instruction set's int8 and bfloat16 dot products, on registers alone and with
all threads (``edge._native.measure_peak``).
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import psutil
from numpy.typing import NDArray

from edge._native import PeakRates
from edge.backends.base import Cache, Draws, Mask, StepRequest
from edge.backends.native import NativeBackend, StepTimes, check_options
from edge.config import DenoiserConfig, ModelConfig
from edge.denoisers import DEFAULT, EMBEDDED
from edge.errors import DoesNotFitError, RequestError
from edge.expert_bench import ExpertFigures, expert_figures
from edge.formats.gguf_file import open_model, read_header
from edge.info import ModelInfo, inspect
from edge.machine import peak_rss_bytes
from edge.model import load
from edge.random_model import weight_bytes, write_random_model
from edge.result import Stats
from edge.shapes import Shape, thinner

DEFAULT_ROWS = (1, 8, 32)
DEFAULT_CONTEXTS = (0, 256, 1024)
DEFAULT_REPEATS = 10
WARM_UPS = 2

_STORED_AT_ONCE = 256
_PROMPT_LENGTH = 16
_MAX_TOKENS = 32


@dataclass(frozen=True)
class Plan:
    """What to measure: every number of active rows behind every length of context.

    The statistics of ``head_rows`` of the rows are asked for, of all when None. Each figure is
    over ``repeats`` steps.
    """

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    head_rows: int | None = None
    repeats: int = DEFAULT_REPEATS

    @property
    def capacity(self) -> int:
        """Positions of the longest context and the most rows."""
        return max(self.contexts) + max(self.rows)

    @property
    def num_measurements(self) -> int:
        """How many figures ``measure`` yields."""
        return len(self.rows) * len(self.contexts)


@dataclass(frozen=True)
class Subject:
    """A loaded denoiser and how to name it.

    Figures are for ``num_layers`` layers; when fewer are loaded, what a layer costs is scaled.
    """

    type: str
    backend: NativeBackend
    denoiser: DenoiserConfig
    num_layers: int
    bytes_per_weight: float = 0.0  # in the file

    @property
    def scale(self) -> float:
        """Layers asked for by layers loaded."""
        return self.num_layers / self.denoiser.num_layers


@dataclass(frozen=True)
class Step:
    """A step to be timed: ``rows`` behind the ``prefix``, which ``request``'s cache holds."""

    rows: int
    head_rows: int
    prefix: NDArray[np.int32]
    request: StepRequest

    @property
    def context(self) -> int:
        """How many positions are cached."""
        return len(self.prefix)


@dataclass(frozen=True)
class Measurement:
    """Figures of one number of ``rows`` behind ``context`` exactly cached keys.

    ``step_ms`` is the median, the five parts are those of the median step and sum to it. Rates
    are in 10^9 operations a second, a multiply-add being two. ``gemm_peak_share`` is the rate of
    the linear layers, without the head, by ``int8_peak_gops``, whatever type the weights have, and
    ``attention_peak_share`` that of attention by ``bf16_peak_gops``, whatever its keys are kept in.
    ``step_over_peak_time`` is ``step_ms`` by the least time that

        (linear layers and head) / int8_peak_gops + attention / bf16_peak_gops

    allows, where attention is scores and mixing of values: rows x (context + rows) x
    num_heads x head_dim x 2 multiply-adds per layer. ``peak_rss_bytes`` is the process's up to
    now.
    """

    rows: int
    context: int
    head_rows: int
    type: str
    threads: int
    isa: str
    step_ms: float
    step_ms_p95: float
    gemm_ms: float
    attention_ms: float
    head_ms: float
    quantize_ms: float
    other_ms: float
    int8_peak_gops: float
    float_peak_gops: float
    bf16_peak_gops: float
    gemm_peak_share: float
    attention_peak_share: float
    step_over_peak_time: float
    peak_rss_bytes: int
    experts: ExpertFigures | None = None


def plan_for(
    context_length: int,
    rows: Sequence[int] | None = None,
    contexts: Sequence[int] | None = None,
    *,
    head_rows: int | None = None,
    repeats: int = DEFAULT_REPEATS,
) -> Plan:
    """Check the lists against the model's context; None takes the defaults that fit in it.

    Raises RequestError.
    """
    rows = rows or [count for count in DEFAULT_ROWS if count <= context_length]
    fitting = [length for length in DEFAULT_CONTEXTS if length + max(rows) <= context_length]
    contexts = contexts or fitting or [0]
    if max(rows) + max(contexts) > context_length:
        raise RequestError(
            f"{max(rows)} rows behind a context of {max(contexts)} exceed the model's "
            f"{context_length} positions",
            hint="give fewer rows or a shorter context",
        )
    return Plan(tuple(rows), tuple(sorted(contexts)), head_rows, repeats)


@contextmanager
def opened_file(
    info: ModelInfo, plan: Plan, *, threads: int | None, activations: str, kv: str = "auto"
) -> Iterator[Subject]:
    """Load a model file. Raises DoesNotFitError, and like ``edge.load``."""
    check_memory("weights", info.size_bytes)
    config = info.config.denoiser
    with closing(_load(info.path, config, threads, activations, kv)) as backend:
        check_memory("keys and values", backend.cache_bytes(plan.capacity))
        tensors = read_header(info.path).tensors.values()
        per_weight = sum(t.num_bytes for t in tensors) / sum(math.prod(t.shape) for t in tensors)
        yield Subject(info.main_type, backend, config, config.num_layers, per_weight)


@contextmanager
def opened_shape(
    shape: Shape,
    kind: str,
    plan: Plan,
    *,
    layers: int | None = None,
    threads: int | None,
    activations: str,
    kv: str = "auto",
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Subject]:
    """Load ``shape`` with random weights of type ``kind``, of ``layers`` layers only if given.

    They are written to a temporary file, which is removed as soon as it is mapped; ``advance``
    gets the bytes of each tensor written. Raises DoesNotFitError, RequestError, OSError.
    """
    check_options(threads, activations, kv)
    with random_file(thinner(shape, layers), kind, advance) as path:
        config = inspect(path).config.denoiser
        backend = _load(str(path), config, threads, activations, kv)
    with closing(backend):
        check_memory("keys and values", backend.cache_bytes(plan.capacity))
        per_weight = weight_bytes(shape, kind) / shape.num_parameters
        yield Subject(kind, backend, config, shape.num_layers, per_weight)


@contextmanager
def random_file(
    shape: Shape,
    kind: str,
    advance: Callable[[int], None] = lambda _: None,
    more_keys: Mapping[str, int | float | str] = MappingProxyType({}),
    architecture: str | None = None,
) -> Iterator[Path]:
    """Have ``write_random_model`` write a temporary file. Raises DoesNotFitError, OSError."""
    num_bytes = weight_bytes(shape, kind)
    check_memory("weights", num_bytes)
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as folder:
        _check_disk(folder, num_bytes)
        path = Path(folder, "random.gguf")
        write_random_model(path, shape, kind, advance, more_keys, architecture)
        check_memory("weights", num_bytes)  # once more: the folder may itself be in memory
        yield path


def measure(subject: Subject, plan: Plan, peak: PeakRates) -> Iterator[Measurement]:
    """Yield a figure per context and number of rows; nothing else should run meanwhile."""
    for step in steps(subject, plan):
        warm_up(subject, step)
        times = [timed(subject, step) for _ in range(plan.repeats)]
        yield figures(subject, peak, times, step)


def steps(subject: Subject, plan: Plan) -> Iterator[Step]:
    """Yield each step of the plan, ready to be run: its prefix is cached."""
    cache = subject.backend.new_cache(plan.capacity)
    ids = _random_ids(plan.capacity, subject.denoiser.vocab_size)
    stored = 0
    for context in plan.contexts:
        _store(subject, ids[:context], stored, cache)
        stored = context
        for rows in plan.rows:
            head_rows = min(rows, plan.head_rows or rows)
            request = _request(subject, ids[: context + rows], context, cache, head_rows)
            yield Step(rows, head_rows, ids[:context], request)


def warm_up(subject: Subject, step: Step) -> None:
    """Run a step that is about to be timed."""
    for _ in range(WARM_UPS):
        subject.backend.forward(step.request)


def timed(subject: Subject, step: Step) -> StepTimes:
    """Run a step; its times are those of all layers."""
    times = subject.backend.time_step(step.request)
    parts = {name: ms * subject.scale for name, ms in asdict(times).items()}
    return StepTimes(**{**parts, "head_ms": times.head_ms})


def time_generation(
    name: str | None, *, threads: int | None, activations: str, kv: str = "auto"
) -> Stats:
    """Return the figures of a short answer: an embedded denoiser's example, else to 16 random ids.

    A model that refines in place is given an empty canvas.
    """
    card = EMBEDDED.get(DEFAULT if name is None else name)
    with load(name, threads=threads, activations=activations, kv=kv) as model:
        if card is not None:
            return model.generate(card.example).stats
        longest = max(1, min(_MAX_TOKENS, model.config.denoiser.context_length - _PROMPT_LENGTH))
        return model.generate_ids(_prompt(model.config), max_tokens=longest, eos="forbid").stats


def _prompt(config: ModelConfig) -> NDArray[np.int32]:
    diffusion = config.diffusion
    if diffusion.canvas_length is not None:
        return np.full(diffusion.canvas_length, diffusion.mask_token_id, np.int32)
    ids = _random_ids(_PROMPT_LENGTH, config.num_tokens)
    prompt: NDArray[np.int32] = ids[ids != diffusion.mask_token_id]
    return prompt


def _random_ids(count: int, num_tokens: int) -> NDArray[np.int32]:
    ids: NDArray[np.int64] = np.random.default_rng(0).integers(0, num_tokens, count)
    return ids.astype(np.int32)


def _load(
    path: str, config: DenoiserConfig, threads: int | None, activations: str, kv: str
) -> NativeBackend:
    file = open_model(path)
    return NativeBackend(path, file, config, threads=threads, activations=activations, kv=kv)


def check_memory(what: str, num_bytes: int) -> None:
    """Raise DoesNotFitError where so much, which is wanted for ``what``, is not available."""
    available = psutil.virtual_memory().available
    if num_bytes > available:
        raise DoesNotFitError(
            f"{what} need {_gib(num_bytes)} of memory, {_gib(available)} are available",
            hint="take a smaller model, type or context, or fewer --layers of a shape",
        )


def _check_disk(folder: str, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise DoesNotFitError(
            f"the random weights need {_gib(num_bytes)} of disk, {_gib(free)} are free",
            path=tempfile.gettempdir(),
            hint="set TMPDIR to a roomier folder, or take a smaller type or fewer --layers",
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _request(
    subject: Subject, ids: NDArray[np.int32], first: int, cache: Cache, head_rows: int
) -> StepRequest:
    """A step over the ids from ``first`` on, behind what is cached before them."""
    return StepRequest(
        ids=ids[first:],
        positions=np.arange(first, len(ids), dtype=np.int32),
        head_rows=np.arange(head_rows, dtype=np.int32),
        draws=Draws(num_choices=subject.denoiser.vocab_size),
        cache=cache,
    )


def _store(subject: Subject, ids: NDArray[np.int32], stored: int, cache: Cache) -> None:
    for first in range(stored, len(ids), _STORED_AT_ONCE):
        request = _request(subject, ids[: first + _STORED_AT_ONCE], first, cache, head_rows=0)
        subject.backend.forward(replace(request, mask=Mask("causal"), store=True))


def _median(times: Sequence[StepTimes]) -> StepTimes:
    """The middle one by the whole step, or the mean of the middle two."""
    ordered = sorted(times, key=lambda each: each.step_ms)
    low, high = (asdict(ordered[i]) for i in ((len(times) - 1) // 2, len(times) // 2))
    return StepTimes(**{name: (low[name] + high[name]) / 2 for name in low})


def figures(
    subject: Subject, peak: PeakRates, times: Sequence[StepTimes], step: Step
) -> Measurement:
    """What so many timed runs of a step say."""
    rows, context, head_rows = step.rows, step.context, step.head_rows
    median = _median(times)
    sizes = replace(subject.denoiser, num_layers=subject.num_layers)
    gemm = linear_operations(subject, rows)
    head = 2 * head_rows * sizes.vocab_size * sizes.hidden_size
    attention = 4 * rows * (context + rows) * sizes.num_heads * sizes.head_dim * sizes.num_layers
    least_ns = (gemm + head) / peak.int8_gops + attention / peak.bf16_gops
    return Measurement(
        rows=rows,
        context=context,
        head_rows=head_rows,
        type=subject.type,
        threads=subject.backend.threads,
        isa=subject.backend.isa,
        step_ms=median.step_ms,
        step_ms_p95=float(np.percentile([each.step_ms for each in times], 95)),
        **asdict(median),
        int8_peak_gops=peak.int8_gops,
        float_peak_gops=peak.float_gops,
        bf16_peak_gops=peak.bf16_gops,
        gemm_peak_share=_share(gemm, median.gemm_ms, peak.int8_gops),
        attention_peak_share=_share(attention, median.attention_ms, peak.bf16_gops),
        step_over_peak_time=median.step_ms * 1e6 / least_ns,
        peak_rss_bytes=peak_rss_bytes(),
        experts=expert_figures(
            subject.backend,
            subject.denoiser,
            step.request,
            bytes_per_weight=subject.bytes_per_weight,
            gemm_ms=median.gemm_ms / subject.scale,
            int8_peak_gops=peak.int8_gops,
        ),
    )


def _share(operations: int, ms: float, peak_gops: float) -> float:
    return operations / (ms * 1e6) / peak_gops if ms > 0 else 0.0


def linear_operations(subject: Subject, rows: int) -> int:
    """Operations of all linear layers but the head, a multiply-add being two."""
    return round(2 * rows * subject.denoiser.linear_weights * subject.scale)

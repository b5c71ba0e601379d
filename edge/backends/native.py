"""The C++ engine as a backend: picks the instruction set, translates errors."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edge import _native
from edge.backends.base import NO_ROWS, LogitBias, Mask, StepRequest
from edge.backends.cores import default_threads
from edge.canvas import RowLogits, RowStats, probability
from edge.config import DenoiserConfig
from edge.errors import (
    ModelClosedError,
    ModelFileError,
    NumericError,
    RequestError,
    UnsupportedModelError,
)
from edge.pack_cache import place_panels

ISA_VARIABLE = "EDGE_ISA"
ACTIVATIONS = ("int8", "f32")
_NOT_NATIVE = ("architecture", "yarn", "query_scale", "experts")
KV_FORMATS = ("auto", "f32", "bf16", "int8")


# A thread that is inside a step when the interpreter ends could not come back from it; closing
# waits for the step and lets no other begin.
_OPEN: weakref.WeakSet[NativeBackend] = weakref.WeakSet()
_HELD: list[NativeBackend] = []


@atexit.register
def _close_all() -> None:
    for backend in list(_OPEN):
        backend.close()


def _hold_all() -> None:
    for backend in list(_OPEN):
        backend.hold()
        _HELD.append(backend)


def _let_go() -> None:
    while _HELD:
        _HELD.pop().let_go()


# No step may be in flight during a fork: its lock and its half-done work would be the child's.
os.register_at_fork(before=_hold_all, after_in_parent=_let_go, after_in_child=_let_go)


def chosen_isa() -> str:
    """The instruction set that ``EDGE_ISA`` names, else the best one; raises RequestError."""
    supported = _native.supported_isas()
    wanted = os.environ.get(ISA_VARIABLE) or supported[0]
    if wanted not in supported:
        raise RequestError(
            f"{ISA_VARIABLE} is {wanted!r}, which this processor or build cannot run",
            hint=f"use one of {', '.join(supported)}, or unset it",
        )
    return wanted


@dataclass(frozen=True)
class StepTimes:
    """Wall-clock milliseconds of one step, by part; the parts sum to ``step_ms``.

    ``gemm_ms`` are the linear layers, ``attention_ms`` packing keys and values, scores, softmax
    and mixing, ``head_ms`` the final norm, the head and its statistics, ``quantize_ms`` making
    int8 activations (in one pass with the norm or activation function before), ``other_ms`` the
    rest: embedding, rotation, residual sums, the crossing from Python into C++ and back.
    """

    gemm_ms: float
    attention_ms: float
    head_ms: float
    quantize_ms: float
    other_ms: float

    @property
    def step_ms(self) -> float:
        """The whole step."""
        return self.gemm_ms + self.attention_ms + self.head_ms + self.quantize_ms + self.other_ms


class NativeBackend:
    """Owns the mapped weights of one file. See ``Backend`` for the methods."""

    name = "native"
    stoppable = True

    def __init__(
        self,
        path: str,
        file: _native.ModelFile,
        config: DenoiserConfig,
        *,
        threads: int | None,
        activations: str,
        kv: str = "auto",
        pack_cache: bool = False,
    ) -> None:
        check_options(threads, activations, kv)
        self.isa = chosen_isa()
        self.threads = default_threads() if threads is None else threads
        shape = native_shape(config)
        with native_errors(path):
            self._denoiser: _native.Denoiser | None = _native.Denoiser(
                file, shape, self.threads, activations, kv, self.isa, pack=not pack_cache
            )
        self.kv = self._denoiser.kv
        if pack_cache:
            place_panels(self._denoiser, file)
        self._path = path
        self._lock = threading.Lock()
        _OPEN.add(self)

    def new_cache(self, capacity: int) -> _native.KvCache:
        with self._use() as denoiser:
            return _native.KvCache(denoiser, capacity)

    def cache_bytes(self, capacity: int) -> int:
        """Memory that a cache of ``capacity`` positions takes."""
        with self._use() as denoiser:
            return denoiser.cache_bytes(capacity)

    def forward(self, request: StepRequest) -> RowStats | None:
        output = self._step(request)
        return None if output.cancelled else _row_stats(request, output)

    def time_step(self, request: StepRequest) -> StepTimes:
        """Run a step for the time it takes; one that is not cancelled."""
        begin_ns = time.perf_counter_ns()
        output = self._step(request)
        elapsed_ns = time.perf_counter_ns() - begin_ns
        parts = (output.gemm_ns, output.attention_ns, output.head_ns, output.quantize_ns)
        return StepTimes(*(ns / 1e6 for ns in (*parts, elapsed_ns - sum(parts))))

    def expert_counts(self, request: StepRequest) -> tuple[int, int]:
        """Of a step, over all layers: pairs of a row and an expert, and experts that had rows."""
        counts = self._step(request).experts
        return counts.pairs, counts.touched

    def _step(self, request: StepRequest) -> _native.StepOutput:
        draws = request.draws
        head = _native.HeadOptions(
            num_choices=draws.num_choices,
            forbidden=draws.forbidden,
            temperature=draws.temperature,
            seed=draws.seed,
            draw=draws.number,
            top_k=draws.top_k,
            top_p=draws.top_p,
            **({} if request.bias is None else _native_bias(request.bias)),
        )
        guidance_ids = NO_ROWS if request.guidance_ids is None else request.guidance_ids
        with self._use() as denoiser, native_errors(self._path):
            return denoiser.step(
                request.ids,
                request.positions,
                request.head_rows,
                gated_rows=request.gated_rows,
                branches=request.branches,
                cache=cast("_native.KvCache | None", request.cache),
                store=request.store,
                num_stored=request.num_stored,
                mask=native_mask(request.mask),
                head=head,
                guidance_ids=guidance_ids,
                guidance_scale=request.guidance_scale,
                cancel=request.cancel,
                deadline_ns=request.deadline_ns,
            )

    def logits(
        self, ids: NDArray[np.int32], mask: Mask, gated_rows: NDArray[np.int32] = NO_ROWS
    ) -> NDArray[np.float32]:
        with self._use() as denoiser, native_errors(self._path):
            return denoiser.logits(ids, native_mask(mask), gated_rows)

    def close(self) -> None:
        with self._lock:
            self._denoiser = None

    def hold(self) -> None:
        """Wait for the step in flight and let none begin until ``let_go``."""
        self._lock.acquire()

    def let_go(self) -> None:
        """End a ``hold``."""
        self._lock.release()

    @contextmanager
    def _use(self) -> Iterator[_native.Denoiser]:
        with self._lock:
            if self._denoiser is None:
                raise ModelClosedError("the model is closed", hint="load it again")
            yield self._denoiser


def check_options(threads: int | None, activations: str, kv: str) -> None:
    """Raise RequestError for what no engine can be made with, ``EDGE_ISA`` included."""
    chosen_isa()
    if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise RequestError(f"threads is {threads!r}", hint="give a number from 1 to 1024")
    if activations not in ACTIVATIONS:
        raise RequestError(
            f"activations is {activations!r}", hint=f"use {' or '.join(ACTIVATIONS)}"
        )
    if kv not in KV_FORMATS:
        raise RequestError(f"kv is {kv!r}", hint=f"use {', '.join(KV_FORMATS)}")


def native_shape(config: DenoiserConfig) -> _native.DenoiserShape:
    """The same as the C++ engine takes it."""
    sizes = {key: value for key, value in asdict(config).items() if key not in _NOT_NATIVE}
    if yarn := config.yarn:
        sizes["rope_frequencies"] = yarn.frequencies(config.rope_theta, config.rotary_dims)
        sizes["rope_magnitude"] = yarn.magnitude
    if scale := config.query_scale:
        sizes["query_scale"], sizes["query_scale_length"] = scale.beta, scale.length
    if experts := config.experts:
        sizes["experts"] = _native.ExpertShape(**asdict(experts))
    return _native.DenoiserShape(**sizes)


def native_mask(mask: Mask) -> _native.AttentionMask:
    """The same as the C++ engine takes it."""
    return _native.AttentionMask(mask.kind, mask.block_length, mask.origin)


def _native_bias(bias: LogitBias) -> dict[str, Any]:
    return {"bias_starts": bias.starts, "bias_ids": bias.ids, "bias_values": bias.values}


def _row_stats(request: StepRequest, output: _native.StepOutput) -> RowStats:
    log_z = output.log_z
    return RowStats(
        positions=request.positions[request.head_rows],
        tokens=output.sampled,
        confidence=probability(output.sampled_logit, log_z),
        margin=probability(output.top1_logit, log_z) - probability(output.top2_logit, log_z),
        entropy=output.entropy,
        logits=RowLogits(
            output.top1,
            output.top1_logit,
            output.top2_logit,
            log_z,
            output.plain_top1,
            output.plain_top1_logit,
            output.plain_log_z,
        ),
        head_ns=output.head_ns,
    )


@contextmanager
def native_errors(path: str) -> Iterator[None]:
    """Raise the package's own errors, which name the file, for those of the C++ engine."""
    try:
        yield
    except _native.FileFault as fault:
        offset, reason = fault.args
        raise ModelFileError(path, offset, reason) from None
    except _native.UnsupportedFault as fault:
        raise UnsupportedModelError(str(fault), path=path, hint="convert the model again") from None
    except _native.NumericFault as fault:
        raise NumericError(
            str(fault),
            path=path,
            hint="the weights are damaged or overflow; convert the model again",
        ) from None

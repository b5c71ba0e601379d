"""Types of the C++ extension; stubtest compares them with what was built."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PANEL_LAYOUT: int

class FileFault(ValueError): ...  # args: (offset: int, reason: str)
class UnsupportedFault(ValueError): ...
class NumericFault(ArithmeticError): ...

class TensorInfo:
    @property
    def group_size(self) -> int: ...  # of int8 and int4, else 0
    @property
    def has_minima(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...

class ModelFile:
    def __init__(self, path: str | bytes, map_tensors: bool = True) -> None: ...
    def read_bytes(self, offset: int, count: int) -> bytes: ...
    def read_rows(self, name: str, first: int, count: int) -> NDArray[np.float32]: ...
    @property
    def alignment(self) -> int: ...
    @property
    def data_offset(self) -> int: ...
    @property
    def identity(self) -> tuple[int, int, int]: ...  # inode, modified_ns, changed_ns
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def tensors(self) -> dict[str, TensorInfo]: ...

class CancelFlag:
    def __init__(self) -> None: ...
    def is_set(self) -> bool: ...
    def set(self) -> None: ...

class AttentionMask:
    def __init__(self, kind: str = "full", block_length: int = 0, origin: int = 0) -> None: ...

class HeadOptions:
    def __init__(
        self,
        num_choices: int = 0,
        forbidden: Sequence[int] = ...,
        temperature: float = 0.0,
        seed: int = 0,
        draw: int = 0,
        top_k: int = 0,
        top_p: float = 1.0,
        bias_starts: NDArray[np.int32] = ...,
        bias_ids: NDArray[np.int32] = ...,
        bias_values: NDArray[np.float32] = ...,
    ) -> None: ...

class KvCache:
    def __init__(self, denoiser: Denoiser, capacity: int) -> None: ...
    def keys(self, position: int) -> NDArray[np.float32]: ...
    def reserve(self, capacity: int) -> None: ...
    def truncate(self, length: int) -> None: ...
    def valid(self) -> NDArray[np.bool_]: ...
    def values(self, position: int) -> NDArray[np.float32]: ...

class StepOutput:
    @property
    def attention_ns(self) -> int: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def entropy(self) -> NDArray[np.float32]: ...
    @property
    def experts(self) -> ExpertCounts: ...
    @property
    def gemm_ns(self) -> int: ...
    @property
    def head_ns(self) -> int: ...
    @property
    def layers_done(self) -> int: ...
    @property
    def log_z(self) -> NDArray[np.float32]: ...
    @property
    def other_ns(self) -> int: ...
    @property
    def plain_log_z(self) -> NDArray[np.float32]: ...
    @property
    def plain_top1(self) -> NDArray[np.int32]: ...
    @property
    def plain_top1_logit(self) -> NDArray[np.float32]: ...
    @property
    def quantize_ns(self) -> int: ...
    @property
    def sampled(self) -> NDArray[np.int32]: ...
    @property
    def sampled_logit(self) -> NDArray[np.float32]: ...
    @property
    def top1(self) -> NDArray[np.int32]: ...
    @property
    def top1_logit(self) -> NDArray[np.float32]: ...
    @property
    def top2_logit(self) -> NDArray[np.float32]: ...

class ExpertCounts:
    @property
    def pairs(self) -> int: ...
    @property
    def touched(self) -> int: ...

class ExpertShape:
    def __init__(
        self,
        *,
        num_experts: int,
        num_used: int,
        size: int,
        shared_size: int,
        num_dense_layers: int,
        scores: str,
        renormalises: bool,
        bias_counts: bool,
        scale: float,
        num_groups: int,
        num_used_groups: int,
    ) -> None: ...

class DenoiserShape:
    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        feed_forward_size: int,
        vocab_size: int,
        context_length: int,
        rms_norm_eps: float,
        rope_theta: float,
        rope_pairs: str,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        gate_rank: int = 0,
        rope_frequencies: Sequence[float] = (),
        rope_magnitude: float = 1.0,
        query_scale: float = 0.0,
        query_scale_length: int = 1,
        rotary_dims: int = 0,
        experts: ExpertShape | None = None,
    ) -> None: ...

class Denoiser:
    def __init__(
        self,
        file: ModelFile,
        shape: DenoiserShape,
        threads: int,
        activations: str = "int8",
        kv: str = "auto",
        isa: str = "",
        pack: bool = True,
    ) -> None: ...
    def cache_bytes(self, capacity: int) -> int: ...
    def map_panels(self, path: str | bytes, size_bytes: int, hash: bytes) -> None: ...
    def pack_panels(self) -> None: ...
    def write_panels(self, path: str | bytes, size_bytes: int, hash: bytes) -> None: ...
    @property
    def panel_bytes(self) -> int: ...
    def logits(
        self,
        ids: NDArray[np.int32],
        mask: AttentionMask = ...,
        gated_rows: NDArray[np.int32] = ...,
    ) -> NDArray[np.float32]: ...
    def step(
        self,
        ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        head_rows: NDArray[np.int32],
        *,
        gated_rows: NDArray[np.int32] = ...,
        branches: Sequence[tuple[int, int]] = ...,
        cache: KvCache | None = None,
        store: bool = False,
        num_stored: int = 0,
        mask: AttentionMask = ...,
        head: HeadOptions = ...,
        guidance_ids: NDArray[np.int32] = ...,
        guidance_scale: float = 0.0,
        cancel: CancelFlag | None = None,
        deadline_ns: int = 0,
    ) -> StepOutput: ...
    @property
    def isa(self) -> str: ...
    @property
    def kv(self) -> str: ...

class PeakRates:
    @property
    def bf16_gops(self) -> float: ...
    @property
    def clock_ghz(self) -> float: ...
    @property
    def float_gops(self) -> float: ...
    @property
    def int8_gops(self) -> float: ...

def dequantize(
    type: str,
    stored: NDArray[np.uint8],
    cols: int,
    group_size: int = 0,
    has_minima: bool = False,
) -> NDArray[np.float32]: ...
def limits() -> dict[str, int]: ...
def measure_peak(threads: int, isa: str = "") -> PeakRates: ...
def measure_read_rate(threads: int) -> float: ...  # GB/s
def quantize(
    type: str, values: NDArray[np.float32], group_size: int = 0, has_minima: bool = False
) -> NDArray[np.uint8]: ...
def set_shortest_shared_ns(ns: int) -> None: ...
def supported_isas() -> list[str]: ...
def quantize_compensated(
    type: str,
    values: NDArray[np.float32],
    factor: NDArray[np.float32],
    group_size: int = 0,
    has_minima: bool = False,
    scales: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]: ...  # stored, errors
def embedded(denoiser: Denoiser, ids: NDArray[np.int32]) -> NDArray[np.float32]: ...
def run_layer(
    denoiser: Denoiser,
    index: int,
    hidden: NDArray[np.float32],
    mask: AttentionMask = ...,
    look: bool = False,
) -> tuple[
    NDArray[np.float32],
    list[NDArray[np.float32]],
    tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]] | None,
]: ...
def head_inputs(denoiser: Denoiser, hidden: NDArray[np.float32]) -> NDArray[np.float32]: ...
def head_logits(denoiser: Denoiser, hidden: NDArray[np.float32]) -> NDArray[np.float32]: ...
def replace_matrix(denoiser: Denoiser, name: str, file: ModelFile) -> None: ...

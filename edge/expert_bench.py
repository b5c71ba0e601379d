"""What a timed step did with its experts, and how near its products came to what is possible."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from edge import _native
from edge.backends.base import StepRequest
from edge.backends.native import NativeBackend
from edge.config import DenoiserConfig


@dataclass(frozen=True)
class ExpertFigures:
    """Means over the layers that have experts.

    ``touched`` of them had rows, ``rows_per_expert`` each. ``read_gbps`` is what the machine reads
    from memory, in 10^9 bytes a second. ``bound_share`` is the least time that the linear layers
    without the head can take by the time they took; that is the longer of computing them at the
    int8 peak and of reading the weights that they need once.
    """

    touched: float
    rows_per_expert: float
    read_gbps: float
    bound_share: float


def expert_figures(
    backend: NativeBackend,
    denoiser: DenoiserConfig,
    request: StepRequest,
    *,
    bytes_per_weight: float,
    gemm_ms: float,
    int8_peak_gops: float,
) -> ExpertFigures | None:
    """Run the step once more and look; ``gemm_ms`` is its linear layers' time. None: no experts."""
    if denoiser.experts is None:
        return None
    pairs, touched = backend.expert_counts(request)
    per_layer = touched / (denoiser.num_layers - denoiser.experts.num_dense_layers)
    read_gbps = _read_rate(backend.threads)
    operations = 2 * len(request.ids) * denoiser.linear_weights
    num_bytes = denoiser.weights_with(per_layer) * bytes_per_weight
    least_ns = max(operations / int8_peak_gops, num_bytes / read_gbps)
    return ExpertFigures(
        touched=per_layer,
        rows_per_expert=pairs / touched,
        read_gbps=read_gbps,
        bound_share=least_ns / (gemm_ms * 1e6) if gemm_ms > 0 else 0.0,
    )


@lru_cache(maxsize=8)
def _read_rate(threads: int) -> float:
    return _native.measure_read_rate(threads)

"""What a conversion did, as frozen data and as JSON (schema 1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convert.compare import Comparison


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the file; the errors are against the source, None in a dry run.

    `group_size` and `has_minima` are those of int8 and int4.
    """

    name: str
    source_name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    group_size: int = 0
    has_minima: bool = False
    rmse: float | None = None
    max_abs_error: float | None = None


@dataclass(frozen=True)
class KeptF16:
    """A tensor that the chosen type does not fit."""

    name: str
    reason: str


@dataclass(frozen=True)
class ActivationReport:
    """One forward of the file with int8 against one with float32 activations.

    The canvas is `canvas_length` ids drawn from `seed`, every second one masked on average;
    `mean_kl_nats` is the mean over rows of KL(float32 || int8).
    """

    canvas_length: int
    num_masked: int
    seed: int
    max_abs_difference: float
    mean_abs_difference: float
    mean_kl_nats: float
    top1_agreement: float


@dataclass(frozen=True)
class Speed:
    """MB of input per second of the whole conversion, beside what this machine copies in memory,
    and reads of the source, without doing anything to it.
    """

    input_mb_per_s: float
    memory_copy_mb_per_s: float
    read_mb_per_s: float


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` returns. Paths are as the caller gave them.

    `comparison` is with the source in float: in a report of a calibrated file or with examples, and
    with a card. `ignored` are tensors of the source that carry nothing, `notes` sentences for the
    user.
    """

    source: str
    output: str
    source_architecture: str
    architecture: str
    type: str
    recipe: dict[str, Any]
    source_bytes: int
    size_bytes: int
    tensor_bytes: int
    num_weights: int
    bits_per_weight: float
    tensors: tuple[TensorReport, ...]
    kept_f16: tuple[KeptF16, ...]
    bf16_activations: tuple[str, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    activations: ActivationReport | None = None
    comparison: Comparison | None = None
    speed: Speed | None = None
    source_sha256: str | None = None
    sha256: str | None = None
    adapter: str | None = None
    adapter_sha256: str | None = None
    gated_adapter: str | None = None
    gated_adapter_sha256: str | None = None
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {"schema": 1, **asdict(self)}

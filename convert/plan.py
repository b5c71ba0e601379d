"""Which tensor is stored as which type, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from convert.models.base import Spec, TensorSpec
from convert.stored_types import LAYOUTS, TYPES
from edge.errors import RequestError

_STAY_FLOAT = {"norm", "bias", "table"}
ALIGNMENT = 32


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor, its type and its bytes; `kept_f16_because` is empty unless `--type` did not fit."""

    spec: TensorSpec
    type: str
    num_bytes: int
    kept_f16_because: str = ""


@dataclass(frozen=True)
class Plan:
    """All tensors in file order."""

    type: str
    tensors: tuple[PlannedTensor, ...]

    @property
    def num_values(self) -> int:
        """Weights in the file."""
        return sum(tensor.spec.num_values for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors without padding."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def data_bytes(self) -> int:
        """Bytes of the file's data section, padding included."""
        return sum(-(-tensor.num_bytes // ALIGNMENT) * ALIGNMENT for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Mean bits that one weight takes."""
        return 8 * self.tensor_bytes / self.num_values

    @property
    def kept_f16(self) -> tuple[PlannedTensor, ...]:
        """Tensors whose columns the type's groups do not divide."""
        return tuple(tensor for tensor in self.tensors if tensor.kept_f16_because)


def make_plan(spec: Spec, type: str) -> Plan:
    """Give each tensor of `spec` its type. Raises RequestError for an unknown `type`."""
    if type not in LAYOUTS:
        raise RequestError(f"unknown type {type!r}", hint=f"known types: {', '.join(TYPES)}")
    return Plan(type, tuple(_planned(tensor, type) for tensor in spec.tensors))


def _planned(spec: TensorSpec, type: str) -> PlannedTensor:
    if spec.role in _STAY_FLOAT:
        return _stored(spec, "f32")
    group_size, _ = LAYOUTS[type]
    if spec.shape[-1] % group_size:
        because = f"groups of {group_size} do not divide {spec.shape[-1]} columns"
        return _stored(spec, "f16", because)
    return _stored(spec, type)


def _stored(spec: TensorSpec, type: str, because: str = "") -> PlannedTensor:
    group_size, group_bytes = LAYOUTS[type]
    return PlannedTensor(spec, type, spec.num_values // group_size * group_bytes, because)

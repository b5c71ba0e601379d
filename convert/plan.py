"""Which tensor is stored as which type, and what that costs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from convert.models.base import Spec, TensorSpec
from convert.recipe import Recipe
from convert.source import Source
from edge.errors import RequestError
from edge.formats.groups import (
    GROUP_SIZES,
    OWN_TYPES,
    Choice,
    Layout,
    layout_for,
    smallest_group,
)

_STAY_FLOAT = {"norm", "bias", "router", "table"}
_FLOATS = {"f32", "f16", "bf16"}
_HOLDS = {"F16": "f16", "BF16": "bf16"}  # a type of safetensors
ALIGNMENT = 32


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor and how it is stored; `kept_f16_because` is empty unless `--type` did not fit."""

    spec: TensorSpec
    layout: Layout
    kept_f16_because: str = ""
    is_compensated: bool = False  # its weights make good each other's errors

    @property
    def type(self) -> str:
        """The storage type's name."""
        return self.layout.type

    @property
    def is_quantized(self) -> bool:
        """Whether groups of its weights share a scale."""
        return self.layout.group_size > 1

    @property
    def stored_name(self) -> str:
        """The name in the file."""
        return self.layout.stored_name(self.spec.target)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the file."""
        return self.layout.row_bytes(self.spec.shape[-1])

    @property
    def num_bytes(self) -> int:
        """Bytes without padding."""
        return self.spec.num_values // self.spec.shape[-1] * self.row_bytes


@dataclass(frozen=True)
class Plan:
    """All tensors in file order."""

    type: str
    tensors: tuple[PlannedTensor, ...]
    bf16_activations: tuple[str, ...] = ()  # matrices whose inputs are not rounded to int8

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


def make_plan(spec: Spec, recipe: Recipe) -> Plan:
    """Give each tensor of `spec` its type. Raises RequestError for one that cannot be."""
    _check_choice(recipe.type, recipe.groups)
    for pattern in recipe.tensors:
        if not fnmatch.filter((tensor.target for tensor in spec.tensors), pattern):
            raise RequestError(
                f"a type for {pattern!r}, which is no tensor",
                hint=f"names are like {spec.tensors[-1].target}",
            )
    tensors = tuple(_planned(tensor, recipe) for tensor in spec.tensors)
    return Plan(recipe.type, tensors, tuple(_matching(tensors, recipe.bf16_activations)))


def lossless_plan(spec: Spec, source: Source) -> Plan:
    """Give each tensor the float type that holds the source's values exactly."""

    def layout(tensor: TensorSpec) -> Layout:
        dtype = source.tensors[tensor.source].dtype
        return _plain("f32" if tensor.role in _STAY_FLOAT else _HOLDS.get(dtype, "f32"))

    return Plan("f32", tuple(PlannedTensor(each, layout(each)) for each in spec.tensors))


def _matching(tensors: Sequence[PlannedTensor], patterns: Sequence[str]) -> Iterator[str]:
    # The embedding is multiplied where it is the head as well.
    is_tied = not any(tensor.spec.role == "head" for tensor in tensors)
    roles = {"linear", "embedding" if is_tied else "head"}
    matrices = [t.spec.target for t in tensors if t.is_quantized and t.spec.role in roles]
    for pattern in patterns:
        if not fnmatch.filter(matrices, pattern):
            raise RequestError(
                f"bfloat16 activations for {pattern!r}, which is no quantized matrix",
                hint=f"names are like {matrices[-1]}" if matrices else "the type quantizes nothing",
            )
    for name in matrices:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            yield name


def _check_choice(type: str, choice: Choice) -> None:
    if choice.largest_group not in (0, *GROUP_SIZES):
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise RequestError(f"a group size of {choice.largest_group}", hint=f"use one of {sizes}")
    if choice.largest_group and type not in OWN_TYPES:
        known = " and ".join(OWN_TYPES)
        raise RequestError(f"{type} has groups of its own", hint=f"only {known} have a group size")
    if choice.has_minima and type != "int4":
        raise RequestError(f"{type} has no choice of minima", hint="only int4 has")


def _planned(spec: TensorSpec, recipe: Recipe) -> PlannedTensor:
    if spec.role in _STAY_FLOAT:
        return PlannedTensor(spec, _plain("f32"))
    type, cols = _type_of(spec, recipe), spec.shape[-1]
    layout = layout_for(type, cols, recipe.groups if type == recipe.type else Choice(0, False))
    if layout is not None:
        return PlannedTensor(spec, layout)
    because = f"groups of {smallest_group(type)} do not divide {cols} columns"
    return PlannedTensor(spec, _plain("f16"), because)


def _type_of(spec: TensorSpec, recipe: Recipe) -> str:
    matching = (
        type for name, type in recipe.tensors.items() if fnmatch.fnmatchcase(spec.target, name)
    )
    # A gated adapter has few weights, and its errors come on top of the others'.
    default = "int8" if spec.role == "gate" and recipe.type not in _FLOATS else recipe.type
    return next(matching, default)


def _plain(type: str) -> Layout:
    layout = layout_for(type, 1)
    assert layout is not None
    return layout

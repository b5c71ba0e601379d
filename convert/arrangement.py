"""Tensors as the runtime has them, where a checkpoint cuts them otherwise.

Experts that are stored one by one become one tensor of three dimensions; gate and up, or query,
key and value, that are stored as one become matrices of their own. Values stay where they are
until they are asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.checkpoint import Checkpoint
from convert.safetensors_file import Tensor

QUERY_KEY_VALUE = ".query_key_value.weight"
_EXPERT = re.compile(r"(.*\.experts)\.(0|[1-9]\d{0,8})\.((?:gate|up|down)_proj\.weight)")
_FUSED = re.compile(r"(.*\.experts\.)(gate_up|gate|up|down)_proj")


@dataclass(frozen=True)
class Stack:
    """Tensors of one shape as one, [tensors, ...]."""

    name: str
    members: tuple[Tensor, ...]

    @property
    def made_of(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors."""
        return tuple(tensor.name for tensor in self.members)

    @property
    def shape(self) -> tuple[int, ...]:
        """How many there are, then their shape."""
        return (len(self.members), *self.members[0].shape)

    @property
    def dtype(self) -> str:
        """The type that holds all values exactly."""
        dtypes = {tensor.dtype for tensor in self.members}
        return dtypes.pop() if len(dtypes) == 1 else "F32"

    def values(self, first_row: int = 0, num_rows: int | None = None) -> NDArray[np.float32]:
        """Of some tensors, or all. Raises ModelFileError when a value is not finite."""
        count = len(self.members) - first_row if num_rows is None else num_rows
        return np.stack([each.values() for each in self.members[first_row : first_row + count]])


@dataclass(frozen=True)
class Slice:
    """`count` rows of a matrix, or of each matrix of a tensor of three dimensions."""

    name: str
    whole: Tensor
    first: int
    count: int

    @property
    def made_of(self) -> tuple[str, ...]:
        """The name of the checkpoint's tensor."""
        return (self.whole.name,)

    @property
    def shape(self) -> tuple[int, ...]:
        """With so many rows."""
        return (*self.whole.shape[:-2], self.count, self.whole.shape[-1])

    @property
    def dtype(self) -> str:
        """The whole tensor's."""
        return self.whole.dtype

    def values(self, first_row: int = 0, num_rows: int | None = None) -> NDArray[np.float32]:
        """Of some rows or matrices, or all. Raises ModelFileError when one is not finite."""
        count = self.shape[0] - first_row if num_rows is None else num_rows
        if len(self.shape) == 2:
            return self.whole.values(self.first + first_row, count)
        rows = slice(self.first, self.first + self.count)
        return np.ascontiguousarray(self.whole.values(first_row, count)[:, rows])


def arranged(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with such tensors in place of those they are made of.

    What is incomplete or of other sizes than config.json says stays as it is, for the family to
    refuse by its own names.
    """
    tensors = dict(checkpoint.tensors)
    _stack_experts(tensors)
    _take_fused_experts(tensors)
    _split_heads(tensors, checkpoint.config)
    return replace(checkpoint, tensors=tensors)


def origins(name: str, tensor: Tensor | None) -> tuple[str, ...]:
    """Names of the checkpoint's tensors that the one called `name` is made of."""
    return tensor.made_of if isinstance(tensor, Stack | Slice) else (name,)


def _stack_experts(tensors: dict[str, Tensor]) -> None:
    found: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := _EXPERT.fullmatch(name):
            found[f"{match[1]}.{match[3]}"][int(match[2])] = tensor
    for name, by_number in found.items():
        members = tuple(by_number[number] for number in sorted(by_number))
        if len({tensor.shape for tensor in members}) > 1 or max(by_number) >= len(by_number):
            continue
        head, tail = name.split(".experts.")
        for number in by_number:
            del tensors[f"{head}.experts.{number}.{tail}"]
        tensors[name] = Stack(name, members)


def _take_fused_experts(tensors: dict[str, Tensor]) -> None:
    for name, tensor in list(tensors.items()):
        match = _FUSED.fullmatch(name.removesuffix(".weight"))
        if match is None or len(tensor.shape) != 3:
            continue
        del tensors[name]
        head, kind, half = match[1], match[2], tensor.shape[1] // 2
        if kind == "gate_up" and half * 2 == tensor.shape[1]:
            for number, part in enumerate(("gate", "up")):
                own = f"{head}{part}_proj.weight"
                tensors[own] = Slice(own, tensor, number * half, half)
        else:
            tensors[f"{head}{kind}_proj.weight"] = tensor


def _split_heads(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    names = ("num_attention_heads", "num_key_value_heads", "num_key_value_heads", "head_dim")
    told = [config.get(name) for name in names]
    if not all(isinstance(number, int) and number > 0 for number in told):
        return  # what is wrong with them is for the family to say
    *heads, head_dim = [int(number or 0) for number in told]
    counts = [number * head_dim for number in heads]
    for name, tensor in list(tensors.items()):
        if not name.endswith(QUERY_KEY_VALUE) or tensor.shape[:-1] != (sum(counts),):
            continue
        del tensors[name]
        for number, part in enumerate("qkv"):
            own = f"{name}[{part}]"
            tensors[own] = Slice(own, tensor, sum(counts[:number]), counts[number])

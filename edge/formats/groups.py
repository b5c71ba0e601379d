"""How a row of weights is stored, type by type: groups of weights that share a scale.

``int8`` and ``int4`` are our own types; native/group_codes.h has their bytes. GGUF knows no such
types, so a tensor ``name`` of one is stored as bytes, [..., row_bytes] of i8, under
``name.edge_int8`` or ``name.edge_int4``. A foreign reader misses ``name`` and refuses the file.
What the bytes mean is said by the keys ``edge.tensor.*``, arrays with an element per such tensor,
which the native reader (native/own_types.h) checks against the tensors in everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edge.formats import keys

OWN_TYPES = ("int8", "int4")
GROUP_SIZES = (128, 64, 32)  # of our own types
LONGEST_GROUP = (2**31 - 1) // (128 * 127)  # beyond, a sum of int8 products may leave 32 bits
COLUMN_STEP = 32  # the kernels' own; divides the columns of every quantized tensor

# type -> weights in a group, bytes of a group
_LAYOUTS = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}
TYPES = ("f32", "f16", "bf16", *OWN_TYPES, "q8_0", "q4_0")


@dataclass(frozen=True)
class Layout:
    """``group_size`` weights take ``group_bytes``; ``has_minima`` is for int4 to choose."""

    type: str
    group_size: int
    group_bytes: int
    has_minima: bool = False

    @property
    def is_own(self) -> bool:
        """True for a type that GGUF does not know."""
        return self.type in OWN_TYPES

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of ``cols`` weights, a multiple of the group size."""
        return cols // self.group_size * self.group_bytes

    def stored_name(self, tensor: str) -> str:
        """The name in the file of a tensor stored this way."""
        return f"{tensor}.edge_{self.type}" if self.is_own else tensor

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of such a tensor: weights, or bytes of i8 in our own types."""
        return (*shape[:-1], self.row_bytes(shape[-1])) if self.is_own else shape

    @property
    def choices(self) -> tuple[int, bool]:
        """The last two arguments of the native quantizers."""
        return (self.group_size, self.has_minima) if self.is_own else (0, False)


@dataclass(frozen=True)
class Choice:
    """How our own types shall group: the largest group, 0 for the default, and int4's minima."""

    largest_group: int = 0
    has_minima: bool = True


DEFAULT = Choice()


def layout_for(type: str, cols: int, choice: Choice = DEFAULT) -> Layout | None:
    """The layout of rows of ``cols`` weights; None where no group divides them."""
    if type not in OWN_TYPES:
        size, num_bytes = _LAYOUTS[type]
        return None if cols % size else Layout(type, size, num_bytes)
    if cols % COLUMN_STEP:
        return None
    size = _own_group_size(type, cols, choice.largest_group)
    if type == "int8":
        return Layout(type, size, 2 + size)
    return Layout(type, size, (4 if choice.has_minima else 2) + size // 2, choice.has_minima)


def own_layouts(tensors: Iterable[tuple[str, int, Layout]]) -> dict[str, list[Any]]:
    """The keys ``edge.tensor.*`` of tensors (name, columns, layout); none without own types."""
    own = [(layout.stored_name(name), cols, layout) for name, cols, layout in tensors]
    own = [tensor for tensor in own if tensor[2].is_own]
    if not own:
        return {}
    return {
        keys.TENSOR_NAMES: [name for name, _, _ in own],
        keys.TENSOR_COLS: [cols for _, cols, _ in own],
        keys.TENSOR_GROUP_SIZE: [layout.group_size for _, _, layout in own],
        keys.TENSOR_HAS_MINIMA: [layout.has_minima for _, _, layout in own],
    }


def smallest_group(type: str) -> int:
    """What must divide the columns."""
    return COLUMN_STEP if type in OWN_TYPES else _LAYOUTS[type][0]


def _own_group_size(type: str, cols: int, largest: int) -> int:
    """A whole row for int8 by default, else the largest of ``GROUP_SIZES`` that is allowed."""
    if type == "int8" and not largest and cols <= LONGEST_GROUP:
        return cols
    return next(size for size in GROUP_SIZES if cols % size == 0 and size <= (largest or 128))

"""What a file holds of an adapter for masked rows, and under which names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from convert.metadata import Entry
from convert.models.base import TensorSpec
from convert.safetensors_file import Tensor
from edge.errors import UnsupportedModelError
from edge.formats import keys

if TYPE_CHECKING:
    from convert.gated_adapter import GatedAdapter

SUFFIXES = {"a": ".gate_a", "b": ".gate_b"}  # of a module's name in the checkpoint, and in the file
MASK = "mask_embedding"
_STORED_MASK = "mask_embd.weight"
_HINT = "train it on the linear layers of the blocks only"


def gate_tensors(gate: GatedAdapter | None, plain: Sequence[TensorSpec]) -> Iterator[TensorSpec]:
    """What the file holds of the adapter, beside the ``plain`` tensors; nothing without one.

    Raises UnsupportedModelError for updates of other things than linear layers.
    """
    if gate is None:
        return
    linear = {tensor.source: tensor for tensor in plain if tensor.role == "linear"}
    if others := sorted(gate.adapter.updates.keys() - linear.keys()):
        reason = f"the adapter adds to '{others[0]}', which is no linear layer of a block"
        raise UnsupportedModelError(reason, path=gate.adapter.weights_path, hint=_HINT)
    for name, update in gate.adapter.updates.items():
        module, target = name.removesuffix(".weight"), linear[name].target.removesuffix(".weight")
        shapes, heads = {"a": update.a.shape, "b": update.b.shape}, linear[name].rope_heads
        for part, suffix in SUFFIXES.items():
            rope_heads = heads if part == "b" else 0
            yield TensorSpec(
                module + suffix, f"{target}{suffix}.weight", shapes[part], "gate", rope_heads
            )
    if gate.mask_embedding is not None:
        hidden = next(tensor.shape[-1] for tensor in plain if tensor.role == "embedding")
        yield TensorSpec(MASK, _STORED_MASK, (hidden,), "table")


def gate_entries(gate: GatedAdapter | None) -> Iterator[Entry]:
    """The keys of the file that tell of it."""
    if gate is not None:
        yield Entry(keys.GATE_RANK, "u32", gate.rank)


def stored_gate_tensors(
    stored: Mapping[str, Tensor], plain: Sequence[TensorSpec]
) -> Iterator[TensorSpec]:
    """The same of a model file that has them already, under the file's own names."""
    for tensor in plain:
        for suffix in SUFFIXES.values():
            name = f"{tensor.target.removesuffix('.weight')}{suffix}.weight"
            if tensor.role == "linear" and name in stored:
                yield TensorSpec(name, name, stored[name].shape, "gate")
    if _STORED_MASK in stored:
        yield TensorSpec(_STORED_MASK, _STORED_MASK, stored[_STORED_MASK].shape, "table")

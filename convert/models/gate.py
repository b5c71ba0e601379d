"""What a file holds of an adapter for masked rows, and under which names."""

from __future__ import annotations

from collections.abc import Iterator

from convert.checkpoint import Checkpoint
from convert.metadata import Entry
from convert.models.base import TensorSpec
from edge.errors import UnsupportedModelError
from edge.formats import keys

SUFFIXES = {"a": ".gate_a", "b": ".gate_b"}  # of a module's name in the checkpoint, and in the file
MASK = "mask_embedding"
_HINT = "train it on the linear layers of the blocks only"


def gate_tensors(checkpoint: Checkpoint, plain: tuple[TensorSpec, ...]) -> Iterator[TensorSpec]:
    """What the file holds of the adapter, beside the ``plain`` tensors; nothing without one.

    Raises UnsupportedModelError for updates of other things than linear layers.
    """
    gate = checkpoint.gate
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
        yield TensorSpec(MASK, "mask_embd.weight", (hidden,), "table")


def gate_entries(checkpoint: Checkpoint) -> Iterator[Entry]:
    """The keys of the file that tell of it."""
    if checkpoint.gate is not None:
        yield Entry(keys.GATE_RANK, "u32", checkpoint.gate.rank)

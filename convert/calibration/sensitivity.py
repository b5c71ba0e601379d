"""What rounding one matrix alone does to the denoiser's mind, and which bits that is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert.calibration.compensation import read_back
from convert.calibration.moments import weighted_error
from convert.calibration.reference import Hidden, Reference
from convert.canvases import NoisyCanvas
from convert.divergence import kl_nats, log_softmax
from convert.job import own_layouts
from convert.metadata import Entry
from convert.plan import Plan, PlannedTensor
from convert.writers.gguf import encoded, write_gguf
from edge import _native
from edge.errors import RequestError
from edge.formats.gguf_file import open_model
from edge.formats.groups import Choice, Layout, layout_for

# From few to many bits; what each step of them is worth is known from the first.
_LADDER = (
    ("int4", Choice(128, False)),
    ("int4", Choice(64, False)),
    ("int4", Choice(32, False)),
    ("int8", Choice(0, False)),
)
_SAMPLED_ROWS = 256
EMBEDDING = "token_embd.weight"


@dataclass(frozen=True)
class Rung:
    """A way to store a tensor, and the KL (nats per position) it is expected to cost."""

    layout: Layout
    num_bytes: int
    kl: float


class Sensitivity:
    """Measures matrix after matrix on a few canvases."""

    def __init__(
        self,
        reference: Reference,
        canvases: Sequence[NoisyCanvas],
        architecture: Entry,
        scratch: Path,
    ) -> None:
        """`scratch` is a file that may be written and replaced."""
        self.reference, self.canvases = reference, canvases
        self._architecture, self._scratch = architecture, scratch

    def ladders(
        self, tensors: Mapping[str, PlannedTensor], progress: Callable[[int, int], None]
    ) -> dict[str, list[Rung]]:
        """Of each tensor its ways to be stored, from few to many bits."""
        reference, canvases = self.reference, self.canvases
        hidden = reference.embedded(canvases)
        wanted = self._logits(list(hidden), 0)
        ladders: dict[str, list[Rung]] = {}
        for layer in range(reference.num_layers):
            progress(layer, reference.num_layers + 1)
            entering = list(hidden)
            moments = reference.watch_layer(layer, canvases, hidden)
            for name in filter(tensors.__contains__, reference.matrices_of(layer)):
                kl = self._cost(tensors[name], list(entering), layer, wanted)
                ladders[name] = self._ladder(tensors[name], moments[name].diagonal, kl)
        head = reference.head
        if head in tensors:
            mean_squares = reference.watch_head(canvases, hidden).diagonal
            kl = self._cost(tensors[head], hidden, reference.num_layers, wanted)
            ladders[head] = self._ladder(tensors[head], mean_squares, kl)
        if EMBEDDING in tensors and head != EMBEDDING:
            ladders[EMBEDDING] = self._embedding_ladder(tensors[EMBEDDING], wanted)
        return ladders

    def _embedding_ladder(
        self, tensor: PlannedTensor, wanted: list[NDArray[np.float64]]
    ) -> list[Rung]:
        """Of a table that is looked up only: its rounded rows enter the first layer."""
        layout = _layouts(tensor)[0]
        hidden = self.reference.embedded(self.canvases)
        for rows, canvas in zip(hidden, self.canvases, strict=True):
            for row, token in zip(rows, canvas.ids, strict=True):
                values = self._values(tensor, int(token), 1)
                row += (read_back(values, layout) - values)[0]
        kl = _mean_kl(wanted, self._logits(hidden, 0))
        return self._ladder(tensor, np.ones(tensor.spec.shape[-1]), kl)

    def _cost(
        self, tensor: PlannedTensor, hidden: Hidden, layer: int, wanted: list[NDArray[np.float64]]
    ) -> float:
        name = tensor.spec.target
        self.reference.replace([name], self._file_of(tensor, _layouts(tensor)[0]))
        try:
            found = self._logits(hidden, layer)
        finally:
            self.reference.replace([name])
        return _mean_kl(wanted, found)

    def _logits(self, hidden: Hidden, layer: int) -> list[NDArray[np.float64]]:
        for number in range(layer, self.reference.num_layers):
            self.reference.run_layer(number, self.canvases, hidden)
        return [log_softmax(logits) for logits in self.reference.logits(self.canvases, hidden)]

    def _file_of(self, tensor: PlannedTensor, layout: Layout) -> _native.ModelFile:
        """A file with that tensor alone, rounded to nearest."""
        stored = replace(tensor, layout=layout)
        plan = Plan(layout.type, (stored,))
        each = math.prod(tensor.spec.shape[1:-1])  # of the file's rows, per one of the tensor
        parts = (
            encoded(stored, self._values(tensor, rows.first * each, rows.count * each))
            for rows in tensor.spec.parts
        )
        entries = (self._architecture, *own_layouts(plan))
        write_gguf(self._scratch, entries, plan, lambda _: parts, lambda _: None)
        return open_model(self._scratch)

    def _values(self, tensor: PlannedTensor, first: int, count: int) -> NDArray[np.float32]:
        return self.reference.rows(tensor.spec.target, first, count)

    def _ladder(
        self, tensor: PlannedTensor, mean_squares: NDArray[np.float64], kl: float
    ) -> list[Rung]:
        num_rows = math.prod(tensor.spec.shape[:-1])
        count = min(_SAMPLED_ROWS, num_rows)
        values = self._values(tensor, (num_rows - count) // 2, count)
        layouts = _layouts(tensor)
        sizes = [replace(tensor, layout=layout).num_bytes for layout in layouts]
        errors = [_rounding_error(values, layout, mean_squares) for layout in layouts]
        per_error = kl / errors[0] if errors[0] else 0.0
        return [
            Rung(layout, size, per_error * error)
            for layout, size, error in zip(layouts, sizes, errors, strict=True)
        ]


def allot(ladders: Mapping[str, list[Rung]], num_bytes: int) -> dict[str, Layout]:
    """Rungs with little KL in all that take at most `num_bytes`.

    From the lowest rungs, always the step up that saves most nats per byte. Raises RequestError
    when even those take more.
    """
    rungs = dict.fromkeys(ladders, 0)
    left = num_bytes - sum(ladder[0].num_bytes for ladder in ladders.values())
    if left < 0:
        raise RequestError(
            f"at their fewest bits the weights take {-left} bytes more than they may",
            hint="allow more bits or another size",
        )
    while steps := [
        step for name, rung in rungs.items() for step in _steps(name, ladders[name], rung, left)
    ]:
        _, name, rung = min(steps)
        left -= ladders[name][rung].num_bytes - ladders[name][rungs[name]].num_bytes
        rungs[name] = rung
    return {name: ladders[name][rung].layout for name, rung in rungs.items()}


def _steps(
    name: str, ladder: Sequence[Rung], now: int, left: int
) -> Iterator[tuple[float, str, int]]:
    """The affordable steps up that save anything: minus the nats saved per byte, and where to."""
    for rung in range(now + 1, len(ladder)):
        num_bytes = ladder[rung].num_bytes - ladder[now].num_bytes
        if 0 < num_bytes <= left and ladder[rung].kl < ladder[now].kl:
            yield (ladder[rung].kl - ladder[now].kl) / num_bytes, name, rung


def _layouts(tensor: PlannedTensor) -> list[Layout]:
    cols = tensor.spec.shape[-1]
    layouts = (layout_for(type, cols, choice) for type, choice in _LADDER)
    return list(dict.fromkeys(layout for layout in layouts if layout is not None))


def _rounding_error(
    values: NDArray[np.float32], layout: Layout, mean_squares: NDArray[np.float64]
) -> float:
    return weighted_error(values, read_back(values, layout), mean_squares)


def _mean_kl(wanted: list[NDArray[np.float64]], found: list[NDArray[np.float64]]) -> float:
    pairs = zip(wanted, found, strict=True)
    return float(np.concatenate([kl_nats(*pair) for pair in pairs]).mean())

"""One conversion: what is wanted, and what will be in the file once the source is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert.channel_scales import ChannelScales
from convert.metadata import Entry, Kind, text_is_storable
from convert.models.base import Choices, Rows, Spec, TensorSpec
from convert.plan import Plan
from convert.progress import Progress
from convert.recipe import Recipe
from convert.source import Source
from convert.vocabulary import Vocabulary
from convert.writers.gguf import Parts
from edge.formats import groups, keys

REVISION = 1  # raised when the same checkpoint and options give other bytes
_HEADER_BYTES_PER_ENTRY = 256  # name, type, shape, offset: generously

_OWN_KINDS: dict[str, Kind] = {
    keys.TENSOR_NAMES: "strings",
    keys.TENSOR_COLS: "u32s",
    keys.TENSOR_GROUP_SIZE: "u32s",
    keys.TENSOR_HAS_MINIMA: "bools",
}


@dataclass(frozen=True)
class Request:
    """The caller's wishes, paths as given."""

    source: Path
    out: Path
    adapter: Path | None
    gated_adapter: Path | None
    recipe: Recipe
    force: bool
    dry_run: bool
    report: Path | None
    card: Path | None
    choices: Choices
    examples: Path | None  # to calibrate with; none: the package's own
    seed: int
    threads: int
    progress: Progress

    @property
    def is_compared(self) -> bool:
        """Whether the file's mind is compared with the source's, which runs both."""
        return self.card is not None or (self.report is not None and self.examples is not None)

    @property
    def texts(self) -> list[Path]:
        """What is written beside the model."""
        return [path for path in (self.report, self.card) if path]


@dataclass(frozen=True)
class Outcome:
    """How the weights are rounded: the final plan, each tensor's bytes piece by piece, and keys
    that were measured. `reference` is the source as a model file, where there is one; `scales`
    were applied to it before anything was rounded.
    """

    plan: Plan
    parts: Parts
    entries: tuple[Entry, ...] = ()
    reference: Path | None = None
    scales: ChannelScales = field(default_factory=ChannelScales)


@dataclass(frozen=True)
class Job:
    """A request once the source is known: everything that will be in the file."""

    request: Request
    source: Source
    spec: Spec
    vocabulary: Vocabulary
    plan: Plan
    source_sha256: str | None = None
    measured: tuple[Entry, ...] = ()  # keys that a calibration found
    scales: ChannelScales = field(default_factory=ChannelScales)
    begun: float = field(default_factory=time.monotonic)  # seconds

    @property
    def entries(self) -> dict[str, Entry]:
        """All keys of the file, in file order."""
        entries = [Entry(keys.ARCHITECTURE, "string", self.spec.architecture)]
        name = self.request.source.resolve().name
        if text_is_storable(name):
            entries.append(Entry(keys.NAME, "string", name))
        entries += self.spec.entries
        entries += (*self.vocabulary.entries, *self.vocabulary.texts)
        entries += own_layouts(self.plan)
        if self.plan.bf16_activations:
            entries.append(Entry(keys.BF16_ACTIVATIONS, "strings", self.plan.bf16_activations))
        entries += _provenance(self.source, self.plan.type, self.source_sha256)
        entries += self.measured
        return {entry.key: entry for entry in entries} | dict(self.request.choices.settings)

    @property
    def needed_bytes(self) -> int:
        """The size of the file, overestimated a little."""
        entries = self.entries
        texts = sum(entry.text_bytes for entry in entries.values())
        num_headers = len(self.plan.tensors) + len(entries)
        # a token costs its type too
        return self.plan.data_bytes + 2 * texts + num_headers * _HEADER_BYTES_PER_ENTRY

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        adapter = self.source.adapter.note if self.source.adapter else ""
        return tuple(filter(None, (*self.spec.notes, self.vocabulary.note, adapter)))

    def load(self, tensor: TensorSpec, rows: Rows) -> NDArray[np.float32]:
        """One of the tensor's parts as it is to be stored, before it is rounded."""
        return self.scales.apply(tensor.target, tensor.load(self.source, rows), rows.first)


def own_layouts(plan: Plan) -> Iterator[Entry]:
    """The keys that say what the bytes of our own types mean."""
    tensors = ((t.spec.target, t.spec.shape[-1], t.layout) for t in plan.tensors)
    for key, values in groups.own_layouts(tensors).items():
        yield Entry(key, _OWN_KINDS[key], tuple(values))


def _provenance(source: Source, type: str, sha256: str | None) -> Iterator[Entry]:
    yield Entry(keys.SOURCE_ARCHITECTURE, "string", source.architecture)
    if sha256 is not None:
        yield Entry(keys.SOURCE_SHA256, "string", sha256)
    if source.adapter:
        yield Entry(keys.ADAPTER_SHA256, "string", source.adapter.sha256)
    if source.gate:
        yield Entry(keys.GATE_SHA256, "string", source.gate.adapter.sha256)
    yield Entry(keys.CONVERSION_TYPE, "string", type)
    yield Entry(keys.CONVERSION_REVISION, "u32", REVISION)

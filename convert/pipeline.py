"""The order of a conversion: check, declare, plan, write, verify, rename."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert.adapter import check_merged, merge
from convert.checkpoint import Checkpoint, hash_file, open_checkpoint
from convert.metadata import SETTINGS, Entry, Kind, describe, summary, text_is_storable
from convert.models import build_spec
from convert.models.base import Choices, Spec, TensorSpec, ignored
from convert.outputs import check_free_space, check_targets
from convert.plan import Plan, make_plan
from convert.progress import Progress
from convert.report import ActivationReport, ConversionReport, KeptF16, TensorReport
from convert.verify import check_keys, compare_activations, verify_file
from convert.vocabulary import Vocabulary, vocabulary_of
from convert.writers.gguf import write_gguf
from edge.errors import RequestError
from edge.formats import groups, keys
from edge.formats.atomic_file import replacing

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
    type: str
    force: bool
    dry_run: bool
    report: Path | None
    choices: Choices
    groups: groups.Choice
    bf16_activations: tuple[str, ...]  # patterns of names
    progress: Progress


@dataclass(frozen=True)
class Job:
    """A request once the checkpoint is known: everything that will be in the file."""

    request: Request
    checkpoint: Checkpoint
    spec: Spec
    vocabulary: Vocabulary
    plan: Plan
    source_sha256: str | None = None

    @property
    def entries(self) -> dict[str, Entry]:
        """All keys of the file, in file order."""
        entries = [Entry(keys.ARCHITECTURE, "string", self.spec.architecture)]
        name = self.request.source.resolve().name
        if text_is_storable(name):
            entries.append(Entry(keys.NAME, "string", name))
        entries += self.spec.entries
        entries += self.vocabulary.entries
        entries += _texts(self.checkpoint)
        entries += _own_layouts(self.plan)
        if self.plan.bf16_activations:
            entries.append(Entry(keys.BF16_ACTIVATIONS, "strings", self.plan.bf16_activations))
        entries += _provenance(self.checkpoint, self.plan.type, self.source_sha256)
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
        adapter = self.checkpoint.adapter.note if self.checkpoint.adapter else ""
        return tuple(filter(None, (*self.spec.notes, self.vocabulary.note, adapter)))

    def load(self, tensor: TensorSpec) -> NDArray[np.float32]:
        """The tensor's values in the runtime's order."""
        return tensor.load(self.checkpoint)


def parse_settings(overrides: Mapping[str, str]) -> dict[str, Entry]:
    """Key -> typed entry. Raises RequestError for unknown keys and unusable values."""
    entries = {}
    for key, text in overrides.items():
        if key not in SETTINGS:
            raise RequestError(
                f"{key!r} cannot be set", hint=f"keys that can: {', '.join(SETTINGS)}"
            )
        try:
            entries[key] = SETTINGS[key].entry_from_text(text)
        except ValueError as error:
            what = describe(key, text, str(error))
            raise RequestError(what, hint="correct --set") from None
    return entries


def run(request: Request) -> ConversionReport:
    """Convert. The target is absent, as it was, or whole, whatever happens.

    Raises EdgeError children and OSError.
    """
    if not request.dry_run:
        sources = [path for path in (request.source, request.adapter) if path]
        check_targets(sources, request.out, request.report, force=request.force)
    checkpoint = merge(open_checkpoint(request.source), request.adapter)
    spec = build_spec(checkpoint, request.choices)
    check_merged(checkpoint, spec)
    plan = make_plan(spec, request.type, request.groups, request.bf16_activations)
    vocabulary = vocabulary_of(checkpoint, spec.num_rows)
    planned = Job(request, checkpoint, spec, vocabulary, plan)
    check_keys(request.out, planned.entries.values())
    if request.dry_run:
        return _report(planned)
    counted = _counted(request.progress, "hash", checkpoint.num_bytes)
    job = replace(planned, source_sha256=checkpoint.sha256(counted))
    check_free_space(request.out, job.needed_bytes)
    return _write(job)


def _write(job: Job) -> ConversionReport:
    target = job.request.report
    # The report takes its name last: a report never stands beside an older model.
    report_file = replacing(target) if target else nullcontext()
    with report_file as report_partial, replacing(job.request.out) as partial:
        report = _write_and_verify(job, partial)
        if report_partial:
            text = json.dumps(report.to_json(), indent=1) + "\n"
            report_partial.write_text(text, encoding="utf-8")
    return report


def _write_and_verify(job: Job, partial: Path) -> ConversionReport:
    entries, plan, progress = job.entries.values(), job.plan, job.request.progress
    counted = _counted(progress, "write", plan.tensor_bytes)
    write_gguf(partial, entries, plan, job.load, counted)
    counted = _counted(progress, "verify", plan.tensor_bytes)
    tensors = verify_file(partial, entries, plan, job.load, counted)
    activations = compare_activations(partial, entries) if job.request.report else None
    return _report(job, tensors, activations, partial)


def _counted(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """A function that takes the bytes done since the last call and tells `progress` the sum."""
    done = 0

    def advance(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(stage, done, total)

    advance(0)
    return advance


def _texts(checkpoint: Checkpoint) -> Iterator[Entry]:
    if checkpoint.tokenizer:
        yield Entry(keys.TOKENIZER_JSON, "string", checkpoint.tokenizer.json)
    if checkpoint.chat_template:
        yield Entry(keys.CHAT_TEMPLATE, "string", checkpoint.chat_template)


def _own_layouts(plan: Plan) -> Iterator[Entry]:
    tensors = ((t.spec.target, t.spec.shape[-1], t.layout) for t in plan.tensors)
    for key, values in groups.own_layouts(tensors).items():
        yield Entry(key, _OWN_KINDS[key], tuple(values))


def _provenance(checkpoint: Checkpoint, type: str, sha256: str | None) -> Iterator[Entry]:
    yield Entry(keys.SOURCE_ARCHITECTURE, "string", checkpoint.architecture)
    if sha256 is not None:
        yield Entry(keys.SOURCE_SHA256, "string", sha256)
    if checkpoint.adapter:
        yield Entry(keys.ADAPTER_SHA256, "string", checkpoint.adapter.sha256)
    yield Entry(keys.CONVERSION_TYPE, "string", type)
    yield Entry(keys.CONVERSION_REVISION, "u32", REVISION)


def _report(
    job: Job,
    tensors: tuple[TensorReport, ...] | None = None,
    activations: ActivationReport | None = None,
    written: Path | None = None,
) -> ConversionReport:
    """`written` is the finished file; without it, as in a dry run, sizes are the plan's."""
    plan = job.plan
    return ConversionReport(
        source=str(job.request.source),
        output=str(job.request.out),
        adapter=str(job.request.adapter) if job.request.adapter else None,
        adapter_sha256=job.checkpoint.adapter.sha256 if job.checkpoint.adapter else None,
        source_architecture=job.checkpoint.architecture,
        architecture=job.spec.architecture,
        type=plan.type,
        source_bytes=job.checkpoint.num_bytes,
        size_bytes=written.stat().st_size if written else plan.data_bytes,
        tensor_bytes=plan.tensor_bytes,
        num_weights=plan.num_values,
        bits_per_weight=plan.bits_per_weight,
        tensors=tensors or _planned_tensors(plan),
        kept_f16=tuple(KeptF16(t.spec.target, t.kept_f16_because) for t in plan.kept_f16),
        bf16_activations=plan.bf16_activations,
        keys=summary(job.entries),
        ignored=tuple(sorted(ignored(job.checkpoint))),
        notes=job.notes,
        activations=activations,
        source_sha256=job.source_sha256,
        sha256=_sha256(written) if written else None,
        dry_run=written is None,
    )


def _planned_tensors(plan: Plan) -> tuple[TensorReport, ...]:
    return tuple(
        TensorReport(
            t.spec.target, t.spec.source, t.type, t.spec.shape, t.num_bytes, *t.layout.choices
        )
        for t in plan.tensors
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    hash_file(path, digest.update)
    return digest.hexdigest()

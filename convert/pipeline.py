"""The order of a conversion: check, declare, plan, write, verify, rename."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert.adapter import check_merged, merge
from convert.arrangement import arranged
from convert.card import model_card
from convert.checkpoint import open_checkpoint
from convert.gated_adapter import attach
from convert.job import Job, Outcome, Request
from convert.metadata import SETTINGS, Entry, describe, summary
from convert.model_file import is_model_file, open_model_file
from convert.models import build_spec
from convert.models.base import Rows, Spec, ignored
from convert.outputs import check_free_space, check_targets
from convert.parallel import in_order
from convert.plan import Plan, PlannedTensor, make_plan
from convert.progress import counted
from convert.report import ConversionReport, KeptF16, Speed, TensorReport
from convert.source import Source, hash_file
from convert.speed import machine_speed
from convert.verify import check_keys, compare_activations, verify_file
from convert.vocabulary import Vocabulary, vocabulary_of
from convert.writers.gguf import encoded, write_gguf
from edge.errors import RequestError
from edge.formats.atomic_file import replacing

_WORTH_TIMING = 256 << 20  # bytes


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
        sources = [request.source, request.adapter, request.gated_adapter]
        check_targets(
            [path for path in sources if path], request.out, request.texts, force=request.force
        )
    source, spec, vocabulary = _opened(request)
    plan = make_plan(spec, request.recipe)
    planned = Job(request, source, spec, vocabulary, plan)
    check_keys(request.out, planned.entries.values())
    if request.dry_run:
        return _report(planned)
    hashed = counted(request.progress, "hash", source.num_bytes)
    job = replace(planned, source_sha256=source.sha256(hashed))
    check_free_space(request.out, job.needed_bytes)
    if not request.recipe.is_calibrated and not request.is_compared:
        return _write(job, Outcome(plan, partial(nearest, job)))
    from convert.calibration.run import calibrated

    with calibrated(job, nearest) as outcome:
        job = replace(job, plan=outcome.plan, measured=outcome.entries, scales=outcome.scales)
        return _write(job, outcome)


def _opened(request: Request) -> tuple[Source, Spec, Vocabulary]:
    """The source, and what it becomes."""
    if is_model_file(request.source):
        if request.adapter:
            raise RequestError(
                "an adapter is merged into a checkpoint folder, SOURCE is a model file",
                path=request.source,
                hint="give the checkpoint that the adapter was trained on",
            )
        model_file = open_model_file(request.source, request.choices, request.gated_adapter)
        return model_file, model_file.spec(), Vocabulary(())
    checkpoint = merge(open_checkpoint(request.source), request.adapter)
    checkpoint = arranged(attach(checkpoint, request.gated_adapter))
    spec = build_spec(checkpoint, request.choices)
    check_merged(checkpoint, spec)
    return checkpoint, spec, vocabulary_of(checkpoint, spec.num_rows)


def nearest(job: Job, tensor: PlannedTensor) -> Iterator[NDArray[np.uint8]]:
    """A tensor's bytes piece by piece, its values rounded to nearest."""

    def work(rows: Rows) -> NDArray[np.uint8]:
        return encoded(tensor, job.load(tensor.spec, rows))

    return in_order(work, tensor.spec.parts, job.request.threads)


def _write(job: Job, outcome: Outcome) -> ConversionReport:
    request = job.request
    # The report and the card take their names last: they never stand beside an older model.
    with ExitStack() as stack:
        texts = [stack.enter_context(replacing(path)) for path in request.texts]
        file = stack.enter_context(replacing(request.out))
        report = _write_and_verify(job, outcome, file)
        for target, text in zip(request.texts, texts, strict=True):
            content = json.dumps(report.to_json(), indent=1) + "\n"
            content = model_card(report) if target == request.card else content
            text.write_text(content, encoding="utf-8")
    return report


def _write_and_verify(job: Job, outcome: Outcome, file: Path) -> ConversionReport:
    entries, plan, request = job.entries.values(), job.plan, job.request
    written = counted(request.progress, "write", plan.tensor_bytes)
    write_gguf(file, entries, plan, outcome.parts, written)
    seconds = time.monotonic() - job.begun
    verified = counted(request.progress, "verify", plan.tensor_bytes)
    tensors = verify_file(file, entries, plan, job.load, outcome.parts, verified, request.threads)
    report = replace(
        _report(job),
        size_bytes=file.stat().st_size,
        tensors=tensors,
        sha256=_sha256(file),
        dry_run=False,
        speed=_speed(job, seconds),
    )
    if not request.texts:
        return report
    report = replace(report, activations=compare_activations(file, entries))
    if outcome.reference is None:
        return report
    from convert.calibration.run import compared

    return replace(report, comparison=compared(job, outcome.reference, file))


def _speed(job: Job, seconds: float) -> Speed | None:
    """None for a source that is read and written too fast to tell."""
    num_bytes = job.source.num_bytes
    if num_bytes < _WORTH_TIMING:
        return None
    return Speed(num_bytes / 1e6 / seconds, *machine_speed(job.source))


def _report(job: Job) -> ConversionReport:
    """Of what is planned."""
    plan = job.plan
    return ConversionReport(
        source=str(job.request.source),
        output=str(job.request.out),
        adapter=str(job.request.adapter) if job.request.adapter else None,
        adapter_sha256=job.source.adapter.sha256 if job.source.adapter else None,
        gated_adapter=str(job.request.gated_adapter) if job.request.gated_adapter else None,
        gated_adapter_sha256=job.source.gate.adapter.sha256 if job.source.gate else None,
        source_architecture=job.source.architecture,
        architecture=job.spec.architecture,
        type=plan.type,
        recipe=job.request.recipe.to_json(),
        source_bytes=job.source.num_bytes,
        size_bytes=plan.data_bytes,
        tensor_bytes=plan.tensor_bytes,
        num_weights=plan.num_values,
        bits_per_weight=plan.bits_per_weight,
        tensors=_planned_tensors(plan),
        kept_f16=tuple(KeptF16(t.spec.target, t.kept_f16_because) for t in plan.kept_f16),
        bf16_activations=plan.bf16_activations,
        keys=summary(job.entries),
        ignored=tuple(sorted(ignored(job.source))),
        notes=job.notes,
        source_sha256=job.source_sha256,
        dry_run=True,
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

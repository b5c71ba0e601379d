"""A calibration from the source's copy to the commit threshold."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import edge
from convert.calibration.noise import first_rows, noisy_canvases
from convert.calibration.reference import Reference
from convert.calibration.rounding import Rounding
from convert.calibration.sensitivity import Sensitivity, allot
from convert.calibration.smoothing import Smoothing
from convert.canvases import NoisyCanvas
from convert.channel_scales import ChannelScales
from convert.compare import Comparison, compare
from convert.job import REVISION, Job, Outcome
from convert.metadata import Entry
from convert.outputs import check_free_space
from convert.plan import Plan, PlannedTensor, lossless_plan
from convert.progress import counted
from convert.work_folder import WorkFolder, work_folder
from convert.writers.gguf import Parts, write_gguf
from edge.formats import keys
from edge.formats.groups import Layout
from edge.pack_cache import forget_panels

_MOST_ROWS = 8192  # canvas positions to calibrate with, fewer where hidden states are long
_MOST_HIDDEN = 1 << 25  # values of them
_PROBE_ROWS = 512  # to measure one matrix after the other with
_THRESHOLD_EXAMPLES = 8
_REPORT_EXAMPLES = 64  # of the user's own; drawing as many takes long
_REPORT_DRAWN = 16
PartsOf = Callable[[Job, PlannedTensor], Iterator[NDArray[np.uint8]]]
_SOURCE, _TRIAL, _LAYOUTS = "source.gguf", "trial.gguf", "layouts.json"


@contextmanager
def calibrated(job: Job, nearest: PartsOf) -> Iterator[Outcome]:
    """How the job's weights are to be rounded; `nearest` gives the bytes of plain rounding.

    What takes long is kept beside the target until the caller is done with the outcome. Raises
    EdgeError children and OSError.
    """
    # One thread for each product: several would add up in an order of their own.
    with threadpool_limits(1), work_folder(job.request.out, _identity(job)) as work:
        source = _lossless_copy(job, partial(nearest, job), work)
        recipe = job.request.recipe
        if not recipe.is_calibrated:
            yield Outcome(job.plan, partial(nearest, job), reference=source)
            return
        plan, scales = _calibrate(job, source, work)
        parts = partial(_parts, work, partial(nearest, replace(job, scales=scales)))
        # Where rows are gated, drafts are verified and no threshold matters.
        recalibrates = recipe.recalibrate and keys.GATE_RANK not in job.entries
        entries = _threshold(job, plan, parts, source, work) if recalibrates else ()
        yield Outcome(plan, parts, entries, source, scales)


def _identity(job: Job) -> dict[str, object]:
    request = job.request
    examples = request.examples and hashlib.sha256(request.examples.read_bytes()).hexdigest()
    return {
        "revision": REVISION,
        "source": job.source_sha256,
        "adapter": job.source.adapter.sha256 if job.source.adapter else None,
        "gate": job.source.gate.adapter.sha256 if job.source.gate else None,
        "recipe": request.recipe.to_json(),
        "settings": {key: str(entry.value) for key, entry in request.choices.settings.items()},
        "mask_token_id": request.choices.mask_token_id,
        "examples": examples,
        "seed": request.seed,
    }


def _lossless_copy(job: Job, nearest: Parts, work: WorkFolder) -> Path:
    """The source as a model file of its own float types."""
    path = work.file(_SOURCE)
    if work.holds(_SOURCE):
        return path
    plan = lossless_plan(job.spec, job.source)
    # A trial of the rounded weights may come beside the copy and the weights themselves.
    check_free_space(path, plan.data_bytes + 3 * job.needed_bytes)
    advance = counted(job.request.progress, "copy", plan.tensor_bytes)
    with work.writing(_SOURCE) as file:
        write_gguf(file, replace(job, plan=plan).entries.values(), plan, nearest, advance)
    return path


def _calibrate(job: Job, source: Path, work: WorkFolder) -> tuple[Plan, ChannelScales]:
    """Fill the work folder with the rounded tensors; returns the final plan and the scales."""
    request, recipe = job.request, job.request.recipe
    reference = Reference(source, request.threads)
    canvases = _canvases(job, source, reference.config.denoiser.hidden_size)
    plan = job.plan
    if recipe.is_mixed:
        plan = _mixed(job, reference, canvases, work)
    if recipe.method == "compensated":
        plan = _marked(plan, reference.head)
    chosen = {t.spec.target: t for t in plan.tensors if t.is_compensated}
    layouts = {t.spec.target: t.layout for t in plan.tensors} if recipe.smooth else {}
    smoothing = Smoothing(reference, layouts, work)
    rounding = Rounding(reference, canvases, chosen, smoothing, work)
    rounding.run(partial(request.progress, "calibrate"))
    if recipe.measure_activations:
        wanted = set(plan.bf16_activations) | set(rounding.too_coarse_for_int8())
        names = (tensor.spec.target for tensor in plan.tensors)
        plan = replace(plan, bf16_activations=tuple(name for name in names if name in wanted))
    return plan, smoothing.scales


def _canvases(job: Job, source: Path, hidden_size: int) -> list[NoisyCanvas]:
    request = job.request
    num_rows = min(_MOST_ROWS, _MOST_HIDDEN // hidden_size)
    request.progress("canvases", 0, 1)
    with edge.load(source, threads=request.threads) as model:
        canvases = noisy_canvases(model, request.examples, num_rows, request.seed)
    request.progress("canvases", 1, 1)
    return canvases


def _mixed(job: Job, reference: Reference, canvases: list[NoisyCanvas], work: WorkFolder) -> Plan:
    """The plan whose int4 tensors got the bits that they are worth."""
    plan, recipe = job.plan, job.request.recipe
    if (kept := work.json(_LAYOUTS)) is not None:
        return _with_layouts(plan, {name: Layout(*values) for name, values in kept.items()})
    pinned = {n for p in recipe.tensors for n in fnmatch.filter(_names(plan), p)}
    free = {
        t.spec.target: t for t in plan.tensors if t.layout.is_own and t.spec.target not in pinned
    }
    num_bytes = _budget(job) - sum(t.num_bytes for t in plan.tensors if t.spec.target not in free)
    probes = first_rows(canvases, _PROBE_ROWS)
    sensitivity = Sensitivity(
        reference,
        probes,
        Entry(keys.ARCHITECTURE, "string", job.spec.architecture),
        work.file("probe.gguf"),
    )
    ladders = sensitivity.ladders(free, partial(job.request.progress, "measure"))
    layouts = allot(ladders, num_bytes)
    work.keep_json(_LAYOUTS, {name: astuple(layout) for name, layout in layouts.items()})
    return _with_layouts(plan, layouts)


def _with_layouts(plan: Plan, layouts: Mapping[str, Layout]) -> Plan:
    names = (tensor.spec.target for tensor in plan.tensors)
    pairs = zip(plan.tensors, names, strict=True)
    return replace(
        plan, tensors=tuple(replace(t, layout=layouts.get(name, t.layout)) for t, name in pairs)
    )


def _budget(job: Job) -> int:
    """Bytes that all tensors may take."""
    recipe = job.request.recipe
    if recipe.size_bytes is not None:
        return recipe.size_bytes - (job.needed_bytes - job.plan.data_bytes)
    assert recipe.bits is not None
    return int(recipe.bits * job.plan.num_values / 8)


def _names(plan: Plan) -> list[str]:
    return [tensor.spec.target for tensor in plan.tensors]


def _marked(plan: Plan, head: str) -> Plan:
    """The plan with what is multiplied by marked as compensated."""

    def is_multiplied(tensor: PlannedTensor) -> bool:
        return tensor.spec.role == "linear" or tensor.spec.target == head

    tensors = (
        replace(t, is_compensated=t.layout.is_own and is_multiplied(t)) for t in plan.tensors
    )
    return replace(plan, tensors=tuple(tensors))


def _parts(work: WorkFolder, nearest: Parts, tensor: PlannedTensor) -> Iterator[NDArray[np.uint8]]:
    name = tensor.spec.target
    yield from work.parts(name) if tensor.is_compensated else nearest(tensor)


def _threshold(
    job: Job, plan: Plan, parts: Parts, source: Path, work: WorkFolder
) -> tuple[Entry, ...]:
    """The keys of a commit rule as sound as the source's own."""
    request = job.request
    if not work.holds(_TRIAL):
        entries = replace(job, plan=plan).entries.values()
        with work.writing(_TRIAL) as file:
            write_gguf(file, entries, plan, parts, lambda _: None)
    examined = compare(
        source,
        work.file(_TRIAL),
        examples=request.examples,
        count=_THRESHOLD_EXAMPLES,
        seed=request.seed,
        answers=False,
        threads=request.threads,
        progress=lambda _, done, total: request.progress("threshold", done, total),
    )
    forget_panels(work.file(_TRIAL))
    commits = examined.files[1].commits
    found = (
        (keys.THRESHOLD, commits.recalibrated_threshold),
        (keys.ENTROPY_BOUND, commits.recalibrated_entropy_bound),
    )
    # What is next to nothing cannot be written, and commits all or nothing.
    return tuple(Entry(key, "f32", round(v, 4)) for key, v in found if v and v > 1e-4)


def compared(job: Job, source: Path, file: Path) -> Comparison:
    """The finished file beside the source, with answers."""
    request = job.request
    found = compare(
        source,
        file,
        examples=request.examples,
        count=_REPORT_EXAMPLES if request.examples else _REPORT_DRAWN,
        seed=request.seed,
        threads=request.threads,
        progress=request.progress,
    )
    forget_panels(file)  # it is to have another name
    names = str(request.source), str(request.out)
    named = (replace(f, file=name) for f, name in zip(found.files, names, strict=True))
    return replace(found, files=tuple(named))

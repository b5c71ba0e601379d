"""Reopen a written file as the runtime does and compare it with what it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.divergence import kl_nats, log_softmax
from convert.metadata import Entry
from convert.models.base import Rows, TensorSpec
from convert.parallel import in_order
from convert.plan import Plan, PlannedTensor
from convert.report import ActivationReport, TensorReport
from convert.stored_rows import read_rows
from convert.writers.gguf import Parts
from edge.errors import ModelFileError
from edge.formats import keys
from edge.formats.gguf_file import Header, read_header

# RMSE over the root mean square of the largest magnitude of each group: half a step of the type
# plus the rounding of its half-precision scale (2^-11), which no sound file exceeds.
RMSE_LIMITS = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.0045, "q4_0": 0.126}
RMSE_LIMITS |= {"int8": 0.0045, "int4": 0.126}
COMPENSATED = 8.0  # weights that make good the errors of others lie further from their own values
Load = Callable[[TensorSpec, Rows], NDArray[np.float32]]
_FORWARD_ROWS = 64
_HINT = "nothing was replaced; convert again, and check the disk if it happens twice"


def check_keys(out: Path, entries: Iterable[Entry]) -> None:
    """Have the runtime read the keys of a file that is yet to be written.

    Raises what `edge.load` would raise, and RequestError for a sampler it does not know.
    """
    from edge import samplers, tasks
    from edge.config import read_config

    metadata = {entry.key: entry.stored() for entry in entries}
    config = read_config(Header(str(out), metadata, {}, 0, 0))
    samplers.find(config.diffusion.sampler)
    tasks.find(config.task)


def verify_file(
    path: Path,
    entries: Iterable[Entry],
    plan: Plan,
    load: Load,
    parts: Parts,
    advance: Callable[[int], None],
    threads: int,
) -> tuple[TensorReport, ...]:
    """Compare every key and tensor of `path` with what was planned and with the source.

    `parts` give the bytes that compensated tensors must have. Raises ModelFileError when those
    differ, or anything by more than `RMSE_LIMITS`.
    """
    header = read_header(path)
    _check_entries(path, header.metadata, entries)
    _check_tensors(path, header, plan)
    reports = []
    for tensor in plan.tensors:
        offset = header.tensors[tensor.spec.target].offset
        if tensor.is_compensated:
            _require_bytes(path, offset, tensor, parts)
        reports.append(_compare(path, offset, tensor, load, threads))
        advance(tensor.num_bytes)
    return tuple(reports)


def compare_activations(path: Path, entries: Iterable[Entry], seed: int = 0) -> ActivationReport:
    """Run one half-masked canvas through the file with int8 and with float32 activations."""
    import edge

    ids, masked = _half_masked_canvas({entry.key: entry.value for entry in entries}, seed)
    logits = {}
    for activations in ("f32", "int8"):
        with edge.load(path, activations=activations) as model:
            logits[activations] = model.logits(ids).astype(np.float64)
    difference = np.abs(logits["int8"] - logits["f32"])
    agreement = logits["int8"].argmax(axis=1) == logits["f32"].argmax(axis=1)
    return ActivationReport(
        canvas_length=len(ids),
        num_masked=masked,
        seed=seed,
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        mean_kl_nats=float(kl_nats(*(log_softmax(logits[a]) for a in ("f32", "int8"))).mean()),
        top1_agreement=float(agreement.mean()),
    )


def _check_entries(path: Path, found: dict[str, Any], entries: Iterable[Entry]) -> None:
    wanted = {entry.key: entry.stored() for entry in entries}
    if wrong := sorted(wanted.keys() ^ found.keys()):
        raise _fault(path, f"keys {', '.join(wrong)} are missing or too many")
    for key, value in wanted.items():
        read = list(found[key]) if isinstance(value, tuple) else found[key]
        if read != (list(value) if isinstance(value, tuple) else value):
            raise _fault(path, f"key {key} reads back as {str(found[key])[:60]}")


def _check_tensors(path: Path, header: Header, plan: Plan) -> None:
    wanted = [
        (t.spec.target, t.type, t.spec.shape, t.num_bytes, *t.layout.choices) for t in plan.tensors
    ]
    found = [
        (t.name, t.type, tuple(t.shape), t.num_bytes, t.group_size, t.has_minima)
        for t in header.tensors.values()
    ]
    for want, have in zip(wanted, found, strict=False):
        if want != have:
            raise _fault(path, f"tensor {have} reads back where {want} was written")
    if len(wanted) != len(found):
        raise _fault(path, f"{len(found)} tensors read back of {len(wanted)}")


@dataclass(frozen=True)
class _Sums:
    squared_error: float = 0.0
    squared_peaks: float = 0.0
    num_peaks: int = 0
    largest_error: float = 0.0

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.squared_error + other.squared_error,
            self.squared_peaks + other.squared_peaks,
            self.num_peaks + other.num_peaks,
            max(self.largest_error, other.largest_error),
        )


def _errors(values: NDArray[np.float32], read: NDArray[np.float32], group: int) -> _Sums:
    error = np.abs(read.astype(np.float64) - values)
    peaks = np.abs(values.reshape(-1, group)).max(axis=1).astype(np.float64)
    squares = float((error * error).sum())
    return _Sums(squares, float((peaks * peaks).sum()), len(peaks), float(error.max()))


def _require_bytes(path: Path, offset: int, tensor: PlannedTensor, parts: Parts) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        if not all(file.read(part.nbytes) == part.tobytes() for part in parts(tensor)):
            raise _fault(path, f"tensor '{tensor.spec.target}' reads back otherwise than rounded")


def _compare(
    path: Path, offset: int, tensor: PlannedTensor, load: Load, threads: int
) -> TensorReport:
    spec, row_bytes = tensor.spec, tensor.row_bytes
    cols = spec.shape[-1]
    rows_per_row = math.prod(spec.shape[1:-1])  # of the file per one of the tensor

    def errors(rows: Rows) -> _Sums:
        values = load(spec, rows).reshape(-1, cols)
        place, count = offset + rows.first * rows_per_row * row_bytes, len(values)
        read = read_rows(path, place, count, row_bytes, tensor.type, cols, *tensor.layout.choices)
        return _errors(values, read, tensor.layout.group_size)

    sums = sum(in_order(errors, spec.parts, threads), _Sums())
    rmse = math.sqrt(sums.squared_error / spec.num_values)
    limit = RMSE_LIMITS[tensor.type] * math.sqrt(sums.squared_peaks / sums.num_peaks)
    limit *= COMPENSATED if tensor.is_compensated else 1.0
    if not rmse <= limit:
        name = tensor.spec.target
        raise _fault(path, f"tensor '{name}' differs from its source by {rmse:g} (limit {limit:g})")
    return TensorReport(
        name=tensor.spec.target,
        source_name=tensor.spec.source,
        type=tensor.type,
        shape=tensor.spec.shape,
        bytes=tensor.num_bytes,
        group_size=tensor.layout.choices[0],
        has_minima=tensor.layout.has_minima,
        rmse=rmse,
        max_abs_error=sums.largest_error,
    )


def _half_masked_canvas(values: dict[str, Any], seed: int) -> tuple[NDArray[np.int32], int]:
    arch = values[keys.ARCHITECTURE]
    num_tokens = values.get(keys.NUM_TOKENS, values[keys.VOCAB_SIZE.format(arch=arch)])
    longest = min(values[keys.CONTEXT_LENGTH.format(arch=arch)], _FORWARD_ROWS)
    length = values.get(keys.CANVAS_LENGTH, longest)
    random = np.random.default_rng(seed)
    ids = random.integers(num_tokens, size=length, dtype=np.int32)
    masked = random.permutation(length)[: (length + 1) // 2]
    ids[masked] = values[keys.MASK_TOKEN_ID]
    return ids, len(masked)


def _fault(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(path, None, f"the written file is wrong: {reason}", hint=_HINT)

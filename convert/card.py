"""A model card in Markdown: what a converted file is and what its weights lost, as measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge.machine import cpu_name

if TYPE_CHECKING:
    from convert.compare import Answers, Comparison, FileReport
    from convert.report import ConversionReport

_WORST = 8  # tensors that are listed


def model_card(report: ConversionReport) -> str:
    """The card of a finished conversion, with a newline at its end."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: ConversionReport) -> Iterator[str]:
    yield f"# {Path(report.output).name}"
    yield ""
    yield (
        f"{report.source_architecture}, {report.num_weights:,} weights, main type {report.type}: "
        f"{report.size_bytes:,} bytes, {report.bits_per_weight:.2f} bits per weight "
        f"(source {report.source_bytes:,} bytes)."
    )
    yield f"Source SHA-256 `{report.source_sha256}`, this file `{report.sha256}`."
    yield ""
    yield "## How it was made"
    yield ""
    yield from table(("recipe", ""), [(k, str(v)) for k, v in report.recipe.items()])
    if report.bf16_activations:
        yield ""
        yield f"bfloat16 activations: {', '.join(f'`{n}`' for n in report.bf16_activations)}"
    if report.comparison:
        yield ""
        yield "## What it lost"
        yield ""
        yield from _comparison(report.comparison)
    yield ""
    yield "## Tensors"
    yield ""
    yield from _tensors(report)


def _comparison(comparison: Comparison) -> Iterator[str]:
    yield (
        f"Against the source in float: {comparison.num_examples} texts, "
        f"{comparison.num_positions:,} masked positions, seed {comparison.seed}, on {cpu_name()}."
    )
    yield ""
    yield from table(("", *(Path(f.file).name for f in comparison.files)), rows_of(comparison))


def rows_of(comparison: Comparison) -> list[tuple[str, ...]]:
    """What is said of each file: a label and a text per file."""
    columns = [dict(_cells(report)) for report in comparison.files]
    return [(label, *(column[label] for column in columns)) for label in columns[0]]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, aligned for the eye; numbers to the right."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, (label, *values) in enumerate(lines):
        cells = [f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True)]
        yield f"| {label:<{widths[0]}} | {' | '.join(cells)} |"
        if number == 0:
            yield f"| {'-' * widths[0]} | {' | '.join('-' * (w - 1) + ':' for w in widths[1:])} |"


def _tensors(report: ConversionReport) -> Iterator[str]:
    heads = ("tensor", "type", "group", "bytes", "RMSE", "largest error")
    listed = sorted(report.tensors, key=lambda tensor: -(tensor.rmse or 0.0))[:_WORST]
    yield f"{len(report.tensors)} tensors; those with the largest errors:"
    yield ""
    yield from table(
        heads,
        [
            (
                t.name,
                t.type,
                str(t.group_size or "-"),
                f"{t.bytes:,}",
                f"{t.rmse or 0:.3g}",
                f"{t.max_abs_error or 0:.3g}",
            )
            for t in listed
        ],
    )


def _cells(report: FileReport) -> Iterator[tuple[str, str]]:
    """What is said of a file: label and text."""
    commits, answers = report.commits, report.answers
    yield "type", report.type
    yield "MiB", f"{report.size_bytes / 2**20:.2f}"
    yield "bits per weight", f"{report.bits_per_weight:.2f}"
    for at in report.at_ratios:
        yield f"KL in nats, {at.mask_ratio:.0%} masked", f"{at.kl_nats:.3g}"
    for at in report.at_ratios:
        yield f"same likeliest token, {at.mask_ratio:.0%} masked", _percent(at.top1_agreement)
    yield "KL in nats, all", f"{report.kl_nats:.3g}"
    yield "same likeliest token, all", _percent(report.top1_agreement)
    yield "at least (95 % bootstrap)", _percent(report.top1_agreement_low)
    yield "commit threshold", f"{commits.threshold:.3g}"
    yield "committed in a step", _percent(commits.share)
    yield "  its probability under the reference", _percent(commits.precision)
    recalibrated = commits.recalibrated_threshold
    yield (
        "threshold as sound as the reference's",
        "-" if recalibrated is None else f"{recalibrated:.3f}",
    )
    yield "median ms of a forward with all logits", f"{report.forward_ms:.3g}"
    if answers is None:
        return
    yield "same ids in whole answers", _percent(answers.ids_agreement)
    yield "same whole answers", _percent(answers.same_answers)
    yield "right answers", _percent(answers.score)
    yield "more right than the reference (95 % bootstrap)", _bounds(answers)
    yield "mean forwards of an answer", f"{answers.mean_nfe:.2f}"


def _bounds(answers: Answers) -> str:
    low, high = answers.score_change_low, answers.score_change_high
    return "-" if low is None or high is None else f"{low:+.2%} to {high:+.2%}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"

"""The command ``edge-convert compare``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.progress import progress_bar
from edge.exit_codes import verbose_option

if TYPE_CHECKING:
    from convert.compare import Comparison, FileReport

COMPARE = "compare"
_EPILOG = """\b
Examples:
  edge-convert compare sudoku-f32.gguf sudoku-int8.gguf sudoku-int4.gguf
  edge-convert compare llada-f16.gguf llada-Q4_K_M.gguf --examples texts.txt --json

A line of --examples is a text, or a prompt, a tab and its right answer.
"""


@click.command(
    COMPARE,
    epilog=_EPILOG,
    context_settings={
        "auto_envvar_prefix": "EDGE_CONVERT_COMPARE",
        "help_option_names": ["-h", "--help"],
    },
)
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument(
    "others", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FILE..."
)
@click.option(
    "--examples",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Texts to compare on.  [default: answers that REFERENCE draws from nothing]",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="How many texts; each is masked at ten ratios and answered once.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32),
    default=0,
    show_default=True,
    help="Of masks and draws.",
)
@click.option("--threads", type=click.IntRange(1), help="[default: one per big core]")
@click.option(
    "--json",
    "as_json",
    envvar="EDGE_CONVERT_COMPARE_JSON",
    is_flag=True,
    help="Print everything as JSON on stdout.",
)
@verbose_option
def command(
    reference: Path,
    others: tuple[Path, ...],
    examples: Path | None,
    count: int,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Tell how much of REFERENCE's mind is left in each FILE, side by side.

    All are model files of the same network, public GGUFs included; REFERENCE is best the f32 one.
    Printed are size, KL divergence and agreement of the likeliest token at mask ratios 0.1 to 1.0,
    what is committed above the default threshold and how likely the reference finds it, the
    threshold that commits as soundly as the reference's own, and how whole answers agree.
    """
    from convert.compare import compare

    with progress_bar(not sys.stderr.isatty()) as progress:
        result = compare(
            reference,
            *others,
            examples=examples,
            count=count,
            seed=seed,
            threads=threads,
            progress=progress,
        )
    click.echo(json.dumps(result.to_json()) if as_json else "\n".join(_table(result)))


def _table(result: Comparison) -> Iterator[str]:
    """A Markdown table with a column per file, aligned for the eye."""
    columns = [dict(_cells(report)) for report in result.files]
    names = [Path(report.file).name for report in result.files]
    lines = [("", *names), *((label, *(c[label] for c in columns)) for label in columns[0])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, (label, *values) in enumerate(lines):
        cells = [f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True)]
        yield f"| {label:<{widths[0]}} | {' | '.join(cells)} |"
        if number == 0:
            yield f"| {'-' * widths[0]} | {' | '.join('-' * (w - 1) + ':' for w in widths[1:])} |"
    yield ""
    yield (
        f"{result.num_examples} texts, {result.num_positions:,} masked positions, "
        f"seed {result.seed}; the first file is the reference"
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
    yield "same ids in whole answers", _percent(answers.ids_agreement)
    yield "same whole answers", _percent(answers.same_answers)
    yield "right answers", _percent(answers.score)
    yield "mean forwards of an answer", f"{answers.mean_nfe:.2f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"

"""The command ``edge-convert compare``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.card import rows_of, table
from convert.progress import progress_bar
from edge.exit_codes import verbose_option

if TYPE_CHECKING:
    from convert.compare import Comparison

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
    help="Texts to compare on.  [default: the package's own; puzzles: what REFERENCE draws]",
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
@click.option(
    "--answers/--no-answers",
    default=True,
    show_default=True,
    help="Have every file answer the prompts, too.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    metavar="N",
    help="Denoising steps of an answer.  [default: as each file says]",
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
    answers: bool,
    steps: int | None,
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
            answers=answers,
            steps=steps,
            threads=threads,
            progress=progress,
        )
    click.echo(json.dumps(result.to_json()) if as_json else "\n".join(_table(result)))


def _table(result: Comparison) -> Iterator[str]:
    yield from table(("", *(Path(report.file).name for report in result.files)), rows_of(result))
    yield ""
    yield (
        f"{result.num_examples} texts, {result.num_positions:,} masked positions, "
        f"seed {result.seed}; the first file is the reference"
    )

"""``edge frontier``: quality against latency."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from csv import DictWriter
from dataclasses import asdict
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli.options import (
    COUNT,
    activations_option,
    json_option,
    kv_option,
    model_option,
    several_milliseconds,
    threads_option,
    whole_numbers,
)
from edge.cli.output import print_object, stderr_can_redraw
from edge.exit_codes import verbose_option
from edge.machine import cpu_name

if TYPE_CHECKING:
    from edge.frontier import Point
    from edge.model import Model

_COLUMNS = ("setting", "right", "+-", "p50 ms", "p95 ms", "forwards", "whole", "late")


@click.command(name="frontier")
@click.argument("tasks", metavar="TASKS", type=click.Path(exists=True, dir_okay=False))
@model_option
@click.option(
    "--step-counts",
    callback=whole_numbers(1),
    metavar="N,...",
    help="Steps, e.g. 1,2,4.",
)
@click.option(
    "--budgets",
    callback=several_milliseconds,
    metavar="TIME,...",
    help="Latency budgets, e.g. 5ms,20ms,1s.",
)
@click.option("--limit", type=COUNT, metavar="N", help="Only the first N problems.")
@click.option("--tokens", type=COUNT, metavar="N", help="Most tokens of an answer.")
@click.option("--sampler", metavar="NAME", help="Rule that picks what to commit.")
@click.option("--threshold", type=float, metavar="X", help="Of the sampler.")
@click.option("--raw", is_flag=True, help="No chat template around a prompt.")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True)
@click.option("--csv", type=click.Path(dir_okay=False), help="Write the figures here.")
@click.option(
    "--plot", type=click.Path(dir_okay=False), help="Draw them to a .png or .svg (extra plot)."
)
@threads_option
@activations_option
@kv_option
@json_option
@verbose_option
def command(
    tasks: str,
    model: str | None,
    step_counts: tuple[int, ...] | None,
    budgets: tuple[float, ...] | None,
    limit: int | None,
    tokens: int | None,
    seed: int,
    csv: str | None,
    plot: str | None,
    threads: int | None,
    activations: str,
    kv: str,
    json: bool,
    **options: Any,
) -> None:
    """Measure how quality grows with time, over step counts and latency budgets.

    TASKS has a problem per line: {"prompt": ..., "answer": ...}, or a "pattern"
    (a regular expression) in place of the answer; for a model whose file names a
    task, just the prompt. Without --step-counts and --budgets: powers of two, and ten
    budgets from the smallest feasible to the time of a full run. Every problem
    meets all settings in an order of its own.

    \b
    Examples:
      edge frontier puzzles.txt --plot frontier.png
      edge frontier -m model.gguf questions.jsonl --budgets 200ms,500ms,1s --csv out.csv
    """
    import edge

    _refuse_unwritable(csv, plot)
    with edge.load(model, threads=threads, activations=activations, kv=kv) as loaded:
        asked = {**options, "max_tokens": tokens}
        points = _measure(loaded, tasks, step_counts, budgets, limit, seed, asked)
        about = _about(loaded, points[0].count)
    if csv:
        _write_csv(csv, points)
    if plot:
        from edge.plots import draw_frontier

        draw_frontier(points, f"{about['model']}, {about['count']} problems, {about['cpu']}", plot)
    if json:
        print_object({**about, "points": [_fields(point) for point in points]})
    else:
        _print(about, points)


def _refuse_unwritable(csv: str | None, plot: str | None) -> None:
    """Fail now rather than after all answers; raises RequestError, FileNotFoundError."""
    if plot:
        from edge.plots import check_picture

        check_picture(plot)
    for folder in (Path(path).parent for path in (csv, plot) if path):
        if not folder.is_dir():
            raise FileNotFoundError(ENOENT, "no such folder", str(folder))


def _measure(
    model: Model,
    tasks: str,
    step_counts: Sequence[int] | None,
    budgets: Sequence[float] | None,
    limit: int | None,
    seed: int,
    options: dict[str, Any],
) -> list[Point]:
    from edge.frontier import Setting, default_settings, read_problems, run_frontier

    problems = read_problems(tasks, model, limit)
    settings = [Setting(steps=n) for n in step_counts or ()]
    settings += [Setting(budget_ms=ms) for ms in budgets or ()]
    settings = settings or default_settings(model, problems, options)
    with _progress(len(problems) * (len(settings) + 1)) as advance:
        return run_frontier(model, problems, settings, options=options, seed=seed, advance=advance)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    if not stderr_can_redraw():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("answers", total=total)
        yield lambda done: progress.update(bar, completed=done)


def _about(model: Model, count: int) -> dict[str, Any]:
    return {
        "model": model.info.name,
        "sha256": model.info.file_sha256(),
        "count": count,
        "cpu": cpu_name(),
        "isa": model.isa,
        "threads": model.threads,
    }


def _fields(point: Point) -> dict[str, Any]:
    return {"kind": point.setting.kind, **asdict(point.setting), **_figures(point)}


def _figures(point: Point) -> dict[str, Any]:
    return {name: value for name, value in asdict(point).items() if name != "setting"}


def _write_csv(path: str, points: Sequence[Point]) -> None:
    from edge.formats.atomic_file import replacing

    rows = [_fields(point) for point in points]
    text = io.StringIO()
    writer = DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as unfinished:
        unfinished.write_text(text.getvalue(), encoding="utf-8")


def _print(about: dict[str, Any], points: Sequence[Point]) -> None:
    click.echo(
        f"{about['model']}, {about['count']} problems; {about['cpu']}, {about['isa']}, "
        f"{about['threads']} threads"
    )
    click.echo("".join(f"{name:>9}" if i else f"{name:<10}" for i, name in enumerate(_COLUMNS)))
    for point in points:
        cells = (
            f"{point.quality:.1%}",
            f"{point.quality_error:.1%}",
            f"{point.elapsed_ms_p50:.3g}",
            f"{point.elapsed_ms_p95:.3g}",
            f"{point.nfe:.1f}",
            f"{point.complete:.0%}",
            f"{point.late:.1%}" if point.setting.budget_ms else "",
        )
        click.echo(f"{point.setting.label:<10}" + "".join(f"{cell:>9}" for cell in cells))

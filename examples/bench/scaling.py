"""How a step's time grows with active rows and with cached context, and what memory it takes.

    python examples/bench/scaling.py
    python examples/bench/scaling.py --layers 4 --repeats 3 --plot scaling.svg

Random weights of a shape. Two series, each with its least-squares line: rows behind a fixed
context, and contexts before fixed rows; every time is the median of ``--repeats`` steps. With
``--layers`` times are scaled to all layers; memory is that of the layers loaded: the process's
peak, less the weights and the cached keys and values, is what everything else takes, pages of
mapped files among it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil
from report import print_table

from edge._native import measure_peak
from edge.bench import Measurement, Plan, Subject, measure, opened_shape, plan_for
from edge.formats.groups import TYPES
from edge.machine import cpu_name
from edge.plots import check_picture, new_figure, write_figure
from edge.random_model import weight_bytes
from edge.shapes import SHAPES, thinner

ROWS = (8, 16, 32, 64, 128, 256)
CONTEXTS = (0, 512, 1024, 2048, 4096, 8192)
COLUMNS = ("series", "rows", "context", "step ms", "p95", "linear", "attention", "head", "line")
TIMES, LINE = "#1f6feb", "#2b2b2b"


@dataclass(frozen=True)
class Line:
    """The least-squares line through times, and how well it describes them.

    ``deviation`` is the largest one of a time from the line, by the line.
    """

    per_unit_ms: float
    at_zero_ms: float
    r_squared: float
    deviation: float

    def at(self, x: float) -> float:
        return self.at_zero_ms + self.per_unit_ms * x

    def in_words(self, unit: str) -> str:
        ms = self.per_unit_ms
        slope = f"{ms:.2f} ms" if ms >= 1 else f"{1e3 * ms:.1f} us"
        fit = f"R² {self.r_squared:.4f}, at most {self.deviation:.1%} off"
        return f"{self.at_zero_ms:.1f} ms + {slope} per {unit}, {fit}"


@dataclass(frozen=True)
class Series:
    """Measurements along ``unit``: row or key."""

    unit: str
    fixed: str
    xs: tuple[int, ...]
    points: tuple[Measurement, ...]
    line: Line


def fitted(xs: Sequence[int], times: Sequence[float]) -> Line:
    """A single point, and times that do not differ, lie on their line."""
    slope, start = np.polyfit(xs, times, 1) if len(xs) > 1 else (0.0, times[0])
    line = start + slope * np.asarray(xs)
    spread = float(np.var(times))
    r_squared = 1 - float(np.mean((times - line) ** 2)) / spread if spread else 1.0
    return Line(float(slope), float(start), r_squared, float(np.max(np.abs(times / line - 1))))


def plans(options: argparse.Namespace) -> tuple[Plan, Plan]:
    """That of the rows and that of the contexts."""
    longest = SHAPES[options.shape].context_length
    repeats = options.repeats
    return (
        plan_for(longest, options.rows, [options.fixed_context], repeats=repeats),
        plan_for(longest, [options.fixed_rows], options.contexts, repeats=repeats),
    )


def series_of(subject: Subject, options: argparse.Namespace) -> Iterator[Series]:
    """Measure the two."""
    peak = measure_peak(subject.backend.threads, subject.backend.isa)
    for unit, plan in zip(("row", "key"), plans(options), strict=True):
        points = []
        for point in measure(subject, plan, peak):
            points.append(point)
            show(f"{len(points)} of {plan.num_measurements} per {unit}")
        xs = tuple(point.rows if unit == "row" else point.context for point in points)
        fixed = f"context {plan.contexts[0]}" if unit == "row" else f"{plan.rows[0]} rows"
        line = fitted(xs, [point.step_ms for point in points])
        yield Series(unit, fixed, xs, tuple(points), line)
    show("")


def show(line: str) -> None:
    """Redraw a line of progress, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


def memory_of(subject: Subject, peak_bytes: int, options: argparse.Namespace) -> dict[str, int]:
    """What the peak is made of."""
    kv_bytes = max(subject.backend.cache_bytes(plan.capacity) for plan in plans(options))
    weights = weight_bytes(thinner(SHAPES[options.shape], options.layers), options.type)
    rest = peak_bytes - weights - kv_bytes
    mapped = getattr(psutil.Process().memory_info(), "shared", 0)  # Linux only
    both = {"weights": weights, "keys_and_values": kv_bytes}
    return {"peak": peak_bytes, **both, "rest": rest, "mapped_files": mapped}


def measured(options: argparse.Namespace) -> tuple[dict[str, Any], list[Series]]:
    """Who was measured and its memory; the series."""
    shape, (_, plan) = SHAPES[options.shape], plans(options)
    engine = {"threads": options.threads, "activations": "int8"}
    with opened_shape(shape, options.type, plan, layers=options.layers, **engine) as subject:
        both = list(series_of(subject, options))
        about = {
            "shape": options.shape,
            "type": options.type,
            "cpu": cpu_name(),
            "isa": subject.backend.isa,
            "threads": subject.backend.threads,
            "num_layers": subject.num_layers,
            "measured_layers": subject.denoiser.num_layers,
            "repeats": options.repeats,
            "bytes": memory_of(subject, both[-1].points[-1].peak_rss_bytes, options),
        }
    return about, both


def cells(series: Series) -> Iterator[list[str]]:
    for x, point in zip(series.xs, series.points, strict=True):
        parts = (point.gemm_ms, point.attention_ms, point.head_ms, series.line.at(x))
        times = (point.step_ms, point.step_ms_p95, *parts)
        counts = (f"{point.rows}", f"{point.context}")
        yield [f"per {series.unit}", *counts, *(f"{time:.1f}" for time in times)]


def draw(about: dict[str, Any], both: Sequence[Series], path: str) -> None:
    """A panel per series: the times, from zero, and their line."""
    figure, panels = new_figure(len(both))
    for axes, series in zip(panels, both, strict=True):
        ends = (0, max(series.xs))
        axes.plot(ends, [series.line.at(x) for x in ends], color=LINE, linewidth=1, zorder=1)
        axes.plot(series.xs, [point.step_ms for point in series.points], "o", color=TIMES)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="active rows" if series.unit == "row" else "cached context, keys")
        axes.set(ylabel="step, ms", title=f"{series.fixed}\n{series.line.in_words(series.unit)}")
        axes.title.set_fontsize(9)
    figure.suptitle(title_of(about), fontsize=10)
    write_figure(figure, path)


def title_of(about: dict[str, Any]) -> str:
    engine = f"{about['cpu']}, {about['isa']}, {about['threads']} threads"
    return f"{about['shape']}, {about['type']}, random weights; {engine}"


def print_report(about: dict[str, Any], both: Sequence[Series], *, markdown: bool) -> None:
    print(f"{title_of(about)}; medians of {about['repeats']}")
    if about["measured_layers"] != about["num_layers"]:
        layers = f"{about['measured_layers']} layers measured, scaled to {about['num_layers']}"
        print(f"{layers}; memory is that of {about['measured_layers']}")
    print()
    rows = [row for series in both for row in cells(series)]
    print_table(COLUMNS, rows, markdown=markdown)
    print()
    for series in both:
        print(f"{series.fixed}: {series.line.in_words(series.unit)}")
    sizes = {name: f"{size / 2**20:.0f}" for name, size in about["bytes"].items()}
    print(
        f"peak memory {sizes['peak']} MiB: weights {sizes['weights']}, keys and values "
        f"{sizes['keys_and_values']}, rest {sizes['rest']} (mapped files {sizes['mapped_files']})"
    )


def whole_numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Step time by active rows and by context.")
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="qwen3-0.6b", metavar="NAME", help="(qwen3-0.6b)")
    add("--type", choices=TYPES, default="int4", help="of the weights (default int4)")
    add("--layers", type=int, metavar="N", help="load only N, for a quick look")
    add("--rows", type=whole_numbers, default=list(ROWS), metavar="N,...")
    add("--contexts", type=whole_numbers, default=list(CONTEXTS), metavar="N,...")
    add("--fixed-context", type=int, default=512, metavar="N", help="of the rows (default 512)")
    add("--fixed-rows", type=int, default=32, metavar="N", help="of the contexts (default 32)")
    add("--repeats", type=int, default=10, metavar="N", help="steps per time (default 10)")
    add("--threads", type=int, metavar="N", help="default: the library's")
    add("--plot", default="scaling.png", metavar="FILE", help="the picture (default scaling.png)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object")
    output.add_argument("--markdown", action="store_true", help="the table in Markdown")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, draw and print."""
    options = parsed(argv)
    check_picture(options.plot)
    about, both = measured(options)
    draw(about, both, options.plot)
    if options.json:
        print(json.dumps({"schema": 1, **about, "series": [asdict(s) for s in both]}, indent=2))
    else:
        print_report(about, both, markdown=options.markdown)


if __name__ == "__main__":
    main()

"""What share of the processor's int8 peak the linear layers reach, by type of weights and rows.

    python examples/bench/gemm.py
    python examples/bench/gemm.py --shape qwen3-0.6b --layers 28 --threads 1 --markdown

Random weights, read from memory as those of a model are: the layers together are larger than the
caches. A figure is the rate of the matrix products by the peak measured in the same run; the time
is that of the median step, or of the best one, and includes making int8 activations, that is the
norms and activation functions with which this is fused as well. The products alone are given too.
Few rows wait for the weights: where the rate at which memory is read, measured in the same run,
allows less than the peak, the share that it allows is given as well.
int8 has a scale per row, int4 a scale and a minimum per 128 weights where the sizes allow it, q4_0
and q8_0 a scale per 32.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from report import print_table

from edge import bench
from edge._native import measure_peak, measure_read_rate
from edge.backends.cores import default_threads
from edge.backends.native import StepTimes, chosen_isa
from edge.formats.groups import layout_for
from edge.machine import cpu_name
from edge.peak_record import LEAST_SHARE, best_peak
from edge.shapes import SHAPES, thinner

ROWS = (8, 32, 64, 256)
COLUMNS = 1024  # of a matrix, for the bits per weight
TYPES = ("int8", "int4", "q4_0", "q8_0")


@dataclass(frozen=True)
class Cell:
    """Shares of the int8 peak for one type and number of rows."""

    type: str
    rows: int
    median_share: float
    best_share: float
    products_share: float  # of the median step, without making activations
    memory_share: float  # what reading the weights from memory allows, at most 1
    gops: float  # of the median step


def cells(
    kind: str, options: argparse.Namespace, peak_gops: float, read_rate: float
) -> Iterator[Cell]:
    """Measure one type."""
    shape = SHAPES[options.shape]
    plan = bench.Plan(rows=tuple(options.rows), contexts=(0,), head_rows=1, repeats=options.repeats)
    engine = {"layers": options.layers, "threads": options.threads, "activations": "int8"}
    with bench.opened_shape(shape, kind, plan, **engine) as subject:
        for step in bench.steps(subject, plan):
            bench.warm_up(subject, step)
            times = [bench.timed(subject, step) for _ in range(plan.repeats)]
            yield cell(kind, subject, step, times, peak_gops, read_rate)


def cell(
    kind: str,
    subject: bench.Subject,
    step: bench.Step,
    times: Sequence[StepTimes],
    peak_gops: float,
    read_rate: float,
) -> Cell:
    operations = bench.linear_operations(subject, step.rows)
    num_weights = operations / 2 / step.rows
    read_ns = num_weights * bits_per_weight(kind) / 8 / read_rate
    ordered = sorted(times, key=with_activations)
    median, best = ordered[len(ordered) // 2], ordered[0]
    gops = operations / with_activations(median) / 1e6
    return Cell(
        kind,
        step.rows,
        median_share=gops / peak_gops,
        best_share=operations / with_activations(best) / 1e6 / peak_gops,
        products_share=operations / median.gemm_ms / 1e6 / peak_gops,
        memory_share=min(1.0, operations / read_ns / peak_gops),
        gops=gops,
    )


def bits_per_weight(kind: str) -> float:
    """Of rows of the usual lengths."""
    layout = layout_for(kind, COLUMNS)
    assert layout is not None
    return 8 * layout.group_bytes / layout.group_size


def with_activations(times: StepTimes) -> float:
    """Milliseconds of the products and of making what enters them."""
    return times.gemm_ms + times.quantize_ms


def measured(options: argparse.Namespace) -> dict[str, Any]:
    shape = thinner(SHAPES[options.shape], options.layers)
    threads, isa = options.threads or default_threads(), chosen_isa()
    peak, read_rate = measure_peak(threads, isa), measure_read_rate(threads)
    found = []
    for kind in options.types:
        show(f"measuring {kind}")
        found += [asdict(cell) for cell in cells(kind, options, peak.int8_gops, read_rate)]
    show("")
    return {
        "schema": 1,
        "cpu": cpu_name(),
        "isa": isa,
        "threads": threads,
        "clock_ghz": peak.clock_ghz,
        "read_gb_per_s": read_rate,
        "int8_peak_gops": peak.int8_gops,
        "int8_peak_best_gops": best_peak(cpu_name(), isa, threads, peak.int8_gops),
        "shape": options.shape,
        "layers": shape.num_layers,
        "repeats": options.repeats,
        "cells": found,
    }


def show(line: str) -> None:
    """Redraw a line of progress, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


def print_report(report: dict[str, Any], *, markdown: bool) -> None:
    threads = f"{report['threads']} thread{'s' * (report['threads'] > 1)}"
    print(
        f"{report['cpu']}, {report['isa']}, {threads}, {report['clock_ghz']:.2f} GHz, int8 peak "
        f"{report['int8_peak_gops']:.0f} Gop/s (best seen {report['int8_peak_best_gops']:.0f}), "
        f"memory {report['read_gb_per_s']:.0f} GB/s"
    )
    if report["int8_peak_gops"] < LEAST_SHARE * report["int8_peak_best_gops"]:
        print("void: the machine has done much better; repeat this when it is quiet")
    print(
        f"{report['shape']}, {report['layers']} layers, random weights; median / best of "
        f"{report['repeats']} steps, in brackets the products alone, 'of' what memory allows"
    )
    print()
    rows = sorted({cell["rows"] for cell in report["cells"]})
    lines = [
        [kind, *(in_words(report, kind, count) for count in rows)]
        for kind in dict.fromkeys(cell["type"] for cell in report["cells"])
    ]
    print_table(("weights", *(f"{count} rows" for count in rows)), lines, markdown=markdown)


def in_words(report: dict[str, Any], kind: str, rows: int) -> str:
    (found,) = (c for c in report["cells"] if (c["type"], c["rows"]) == (kind, rows))
    shares = (found["median_share"], found["best_share"], found["products_share"])
    bound = f" of {found['memory_share']:.0%}" if found["memory_share"] < 1 else ""
    return "{:.0%} / {:.0%} ({:.0%}){}".format(*shares, bound)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Share of the int8 peak in the linear layers.")
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="llada-8b", metavar="NAME", help="(llada-8b)")
    add("--layers", type=int, default=2, help="(2)")
    add("--type", action="append", choices=TYPES, dest="types", help="repeatable (all)")
    add("--rows", type=int, action="append", help=f"repeatable {ROWS}")
    add("--repeats", type=int, default=30, help="steps per figure (30)")
    add("--threads", type=int, help="default: the library's")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object")
    output.add_argument("--markdown", action="store_true", help="the table in Markdown")
    options = parser.parse_args(argv)
    options.types = options.types or TYPES
    options.rows = options.rows or ROWS
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parsed(argv)
    report = measured(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print_report(report, markdown=options.markdown)


if __name__ == "__main__":
    main()

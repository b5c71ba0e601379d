"""What a second thread gains: on an idle machine, and beside a busy program on every core.

    python examples/bench/threads.py --pairs 5
    python examples/bench/threads.py --baseline ../before/.venv/bin/python

Each figure is a process of its own that repeats one denoising step for ``--seconds`` and gives the
mean, so that a step which waited for a core counts in full. One and two threads take turns; the
table has the medians of the runs, and of the ratios of runs that followed each other. A
``--baseline`` is another interpreter with another version of edge, measured in the same turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean, median

import numpy as np
from report import print_table

import edge
from edge import bench
from edge.backends.base import Draws, StepRequest
from edge.machine import cpu_name
from edge.shapes import SHAPES

BUSY = "while True: pass"
THREADS = (1, 2)
SUDOKU = "sudoku"
WARM_UPS = 5


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """``count`` processes that take all the time they get."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(0.2)  # until they are at it
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def opened(name: str, layers: int, threads: int) -> Iterator[bench.Subject]:
    """The embedded Sudoku denoiser, or a shape with random weights."""
    plan = bench.Plan(rows=(32,), contexts=(0,))
    options = {"threads": threads, "activations": "int8"}
    if name == SUDOKU:
        with bench.opened_file(edge.inspect(SUDOKU), plan, **options) as subject:
            yield subject
    else:
        with bench.opened_shape(SHAPES[name], "q4_0", plan, layers=layers, **options) as subject:
            yield subject


def step_ms(name: str, layers: int, threads: int, seconds: float) -> float:
    """Mean time of a step over all rows, each of which is asked for its statistics."""
    with opened(name, layers, threads) as subject:
        rows = np.arange(81 if name == SUDOKU else 32, dtype=np.int32)
        ids = rows % subject.denoiser.vocab_size
        request = StepRequest(ids, rows, rows, Draws(num_choices=subject.denoiser.vocab_size))
        for _ in range(WARM_UPS):
            subject.backend.forward(request)
        times, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            times.append(subject.backend.time_step(request).step_ms)
    return mean(times)


def measured(python: str, name: str, threads: int, options: argparse.Namespace) -> float:
    """``step_ms`` in a process of that interpreter."""
    command = [python, __file__, "--seconds", str(options.seconds), "--layers", str(options.layers)]
    command += ["--measure", name, str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def rows_of(name: str, options: argparse.Namespace) -> Iterator[Sequence[str]]:
    """A row of the table per load and interpreter."""
    pythons = {"before": options.baseline, "now": sys.executable}
    for load, count in (("idle", 0), ("a busy process per core", os.cpu_count() or 1)):
        runs: dict[str, list[list[float]]] = {k: [] for k, python in pythons.items() if python}
        with neighbours(count):
            for _ in range(options.pairs):
                for version, turns in runs.items():
                    python = pythons[version]
                    turns.append([measured(python, name, t, options) for t in THREADS])
        for version, turns in runs.items():
            one, two = (median(turn[i] for turn in turns) for i in range(2))
            ratios = sorted(turn[1] / turn[0] for turn in turns)
            spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            yield (f"{name}, {load}, {version}", f"{one:.2f}", f"{two:.2f}", spread)


def main() -> None:
    """Measure one figure for a parent, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--subjects", nargs="+", default=[SUDOKU, "qwen3-0.6b"])
    parser.add_argument("--layers", type=int, default=8, help="of a shape, to load fast")
    parser.add_argument("--baseline", metavar="PYTHON")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, threads = options.measure
        print(step_ms(name, options.layers, int(threads), options.seconds))
        return
    print(f"{cpu_name()}, {os.cpu_count()} logical cores, {options.pairs} pairs")
    headers = ("step", "1 thread ms", "2 threads ms", "2 threads / 1 thread")
    rows = [row for name in options.subjects for row in rows_of(name, options)]
    print_table(headers, rows, markdown=options.markdown)


if __name__ == "__main__":
    main()

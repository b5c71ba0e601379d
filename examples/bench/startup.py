"""How long a user waits before anything happens: the first help page, the first denoising step.

    python examples/bench/startup.py --runs 20

Every run is a fresh interpreter on warm disk caches; the table shows medians in milliseconds.
``total`` counts from before the process exists: to its end for the first two rows, to the first
draft of the embedded default denoiser for the third.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from report import print_table
from sudoku_puzzles import puzzles

from edge.machine import cpu_name

PHASES = ("start", "import", "load", "first step", "total")

# Each snippet gets the parent's clock, which is the same for all processes, as its first argument
# and prints the nanoseconds at which a phase ended.
IMPORT_CLI = """
import sys, time
ends = [int(sys.argv[1]), time.perf_counter_ns()]
import edge.cli
ends.append(time.perf_counter_ns())
print(*ends)
"""
FIRST_STEP = """
import sys, time
ends = [int(sys.argv[1]), time.perf_counter_ns()]
from edge import Draft, load
ends.append(time.perf_counter_ns())
with load() as model:
    ends.append(time.perf_counter_ns())
    for event in model.stream(sys.argv[2]):
        if isinstance(event, Draft):
            break
    ends.append(time.perf_counter_ns())
print(*ends)
"""


def wall_ms(command: Sequence[str]) -> dict[str, float]:
    """Time until ``command`` has ended, in ms."""
    started = time.perf_counter_ns()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"total": (time.perf_counter_ns() - started) / 1e6}


def phases_ms(snippet: str, *arguments: str) -> dict[str, float]:
    """The phases a fresh interpreter reports from ``snippet``, in ms."""
    command = [sys.executable, "-c", snippet, str(time.perf_counter_ns()), *arguments]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    ends = [int(end) for end in answer.split()]
    lasted = [(end - begin) / 1e6 for begin, end in pairwise(ends)]
    return dict(zip(PHASES, lasted, strict=False)) | {"total": (ends[-1] - ends[0]) / 1e6}


def medians(measure: Callable[[], dict[str, float]], runs: int) -> dict[str, float]:
    """The median of each phase over ``runs`` calls, after one that warms the caches."""
    measure()
    samples = [measure() for _ in range(runs)]
    return {phase: median(sample[phase] for sample in samples) for phase in samples[0]}


def edge_command() -> list[str]:
    """The installed ``edge`` of this interpreter, or its module where there is no script."""
    script = shutil.which("edge", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-m", "edge"]


def measure_all(runs: int) -> dict[str, dict[str, float]]:
    """Medians in ms by what was started and by phase."""
    puzzle = next(puzzles(0)).givens
    help_page = [*edge_command(), "--help"]
    return {
        "python -c pass": medians(lambda: wall_ms([sys.executable, "-c", "pass"]), runs),
        "edge --help": medians(lambda: phases_ms(IMPORT_CLI) | wall_ms(help_page), runs),
        "first denoising step": medians(lambda: phases_ms(FIRST_STEP, puzzle), runs),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time to the help page and to the first step.")
    parser.add_argument("--runs", type=int, default=10, help="fresh processes each (default 10)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.runs < 1:
        parser.error(f"--runs must be at least 1; got {arguments.runs}")
    measured = measure_all(arguments.runs)
    machine = {"cpu": cpu_name(), "python": platform.python_version()}
    if arguments.json:
        medians_ms = {"medians_ms": measured}
        print(json.dumps({"schema": 1, "runs": arguments.runs, **machine, **medians_ms}, indent=2))
        return
    print(f"medians of {arguments.runs} runs in ms, {machine['cpu']}, Python {machine['python']}")
    print()
    rows = [
        [name, *(f"{phases[phase]:.1f}" if phase in phases else "" for phase in PHASES)]
        for name, phases in measured.items()
    ]
    print_table(["", *PHASES], rows, markdown=False)


if __name__ == "__main__":
    main()

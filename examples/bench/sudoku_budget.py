"""How many Sudoku puzzles a denoiser solves, by its latency budget.

    python examples/bench/sudoku_budget.py
    python examples/bench/sudoku_budget.py --count 60 --budgets 5 --markdown

Budgets are log-spaced from the smallest feasible one to the time of a full run (one cell per
step), and half of the full run's time is measured as well; every puzzle meets them all, in an
order of its own. Solved means that all 81 cells equal the only solution.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from statistics import median
from typing import Any

from report import print_table
from sudoku_puzzles import Puzzle, puzzles

import edge
from edge.frontier import Point, Problem, Setting, feasible_budgets, run_frontier
from edge.machine import cpu_name

NUM_TRIALS = 30  # puzzles that tell how long a full run takes
COLUMNS = ("budget ms", "solved", "forwards", "forced", "median ms", "p99 over ms", "late")


def measure(model: edge.Model, chosen: Iterable[Puzzle], count: int) -> dict[str, Any]:
    """The point of every budget, that of half the full run's time, and the full run's."""
    model.calibrate()
    problems = [_problem(puzzle) for puzzle in chosen]
    trials = problems[:NUM_TRIALS]
    longest = median(model.generate(each.prompt).stats.elapsed_ms for each in trials)
    budgets = feasible_budgets(model, trials, {}, longest, count)
    settings = [Setting(budget_ms=ms) for ms in sorted([*budgets, longest / 2])]
    *points, full = run_frontier(model, problems, settings, options={}, advance=_show)
    half = points[settings.index(Setting(budget_ms=longest / 2))]
    return {"points": [*points, full], "half_time_share": half.quality / full.quality}


def _problem(puzzle: Puzzle) -> Problem:
    return Problem(puzzle.givens, lambda result: result.text == puzzle.solution)


def _show(done: int) -> None:
    print(f"\r{done} answers", end="", file=sys.stderr, flush=True)


def _cells(point: Point) -> list[str]:
    budget = point.setting.budget_ms
    return [
        "none" if budget is None else f"{budget:.1f}",
        f"{point.quality:.1%}",
        f"{point.nfe:.1f}",
        f"{point.forced_tokens:.1f}",
        f"{point.elapsed_ms_p50:.1f}",
        "" if budget is None else f"{point.late_ms_p99:.1f}",
        "" if budget is None else f"{point.late:.1%}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Sudoku solve rate by latency budget.")
    add = parser.add_argument
    add("--model", default="sudoku", help="file or embedded name (default sudoku)")
    add("--count", type=int, default=300, help="puzzles per budget (default 300)")
    add("--budgets", type=int, default=10, help="number of budgets (default 10)")
    add("--seed", type=int, default=0, help="of the puzzles (default 0)")
    add("--threads", type=int, help="default: the library's")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object")
    output.add_argument("--markdown", action="store_true", help="the table in Markdown")
    arguments = parser.parse_args(argv)
    chosen = islice(puzzles(arguments.seed), arguments.count)
    with edge.load(arguments.model, threads=arguments.threads) as model:
        report = measure(model, chosen, arguments.budgets)
        about = {"cpu": cpu_name(), "threads": model.threads, "isa": model.isa}
    print(file=sys.stderr)
    points = report["points"]
    if arguments.json:
        report["points"] = [asdict(point) for point in points]
        print(json.dumps({"schema": 2, **about, **report}, indent=2))
        return
    print(
        f"{arguments.count} puzzles of seed {arguments.seed}, {about['cpu']}, {about['threads']} "
        f"threads, {about['isa']}; load average {os.getloadavg()[0]:.1f} at the end\n"
    )
    print_table(COLUMNS, map(_cells, points), markdown=arguments.markdown)
    print(f"\nin half of the full run's time: {report['half_time_share']:.1%} of what it solves")


if __name__ == "__main__":
    main()

"""How many Sudoku puzzles a denoiser solves, by its latency budget.

    python examples/bench/sudoku_budget.py
    python examples/bench/sudoku_budget.py --count 60 --budgets 5 --markdown

Budgets are log-spaced from the smallest feasible one to the time of a full run (one cell per
step), and half of the full run's time is measured as well. Solved means that all 81 cells equal
the only solution.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import islice
from statistics import fmean, median
from typing import Any

import numpy as np
from report import cpu_name, print_table
from sudoku_puzzles import Puzzle, puzzles

import edge

WARM_UP = 10


def measure(model: edge.Model, chosen: Sequence[Puzzle], count: int) -> dict[str, Any]:
    """One row per budget, and the full run without one."""
    model.calibrate()
    for puzzle in chosen[:WARM_UP]:
        model.generate(puzzle.givens)
    full = _row(model, chosen, None)
    least = median(model.generate(p.givens, budget_ms=0.1).stats.min_budget_ms for p in chosen[:9])
    budgets = [*np.geomspace(least, full["p50_ms"], count), full["p50_ms"] / 2]
    rows = [_row(model, chosen, float(budget)) for budget in sorted(budgets)]
    half = next(row for row in rows if row["budget_ms"] == full["p50_ms"] / 2)
    return {
        "threads": model.threads,
        "isa": model.isa,
        "rows": [*rows, full],
        "half_time_share": half["solve_rate"] / full["solve_rate"],
    }


def _row(model: edge.Model, chosen: Sequence[Puzzle], budget_ms: float | None) -> dict[str, Any]:
    label = "full run" if budget_ms is None else f"{budget_ms:.1f} ms"
    print(f"{label}: {len(chosen)} puzzles", file=sys.stderr, flush=True)
    results = [model.generate(puzzle.givens, budget_ms=budget_ms) for puzzle in chosen]
    stats = [result.stats for result in results]
    over = [s.overshoot_ms for s in stats if s.overshoot_ms is not None]
    return {
        "budget_ms": budget_ms,
        "solve_rate": fmean(r.text == p.solution for r, p in zip(results, chosen, strict=True)),
        "mean_steps": fmean(s.steps for s in stats),
        "mean_forced": fmean(s.forced_tokens for s in stats),
        "p50_ms": median(s.elapsed_ms for s in stats),
        "p99_overshoot_ms": float(np.percentile(over, 99)) if over else None,
        "misses": sum(ms > 0 for ms in over),
        "infeasible": sum(result.status == "deadline_infeasible" for result in results),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    over = row["p99_overshoot_ms"]
    return [
        "none" if row["budget_ms"] is None else f"{row['budget_ms']:.1f}",
        f"{row['solve_rate']:.1%}",
        f"{row['mean_steps']:.1f}",
        f"{row['mean_forced']:.1f}",
        f"{row['p50_ms']:.1f}",
        "" if over is None else f"{over:.1f}",
        str(row["misses"]),
        str(row["infeasible"]),
    ]


HEADERS = (
    "budget ms",
    "solved",
    "mean steps",
    "mean forced cells",
    "median ms",
    "p99 over ms",
    "late",
    "infeasible",
)


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
    chosen = list(islice(puzzles(arguments.seed), arguments.count))
    with edge.load(arguments.model, threads=arguments.threads) as model:
        report = measure(model, chosen, arguments.budgets)
    if arguments.json:
        print(json.dumps({"schema": 1, "cpu": cpu_name(), **report}, indent=2))
        return
    print(
        f"{arguments.count} puzzles of seed {arguments.seed}, {cpu_name()}, {report['threads']} "
        f"threads, {report['isa']}; load average {os.getloadavg()[0]:.1f} at the end\n"
    )
    print_table(HEADERS, map(_cells, report["rows"]), markdown=arguments.markdown)
    print(f"\nin half of the full run's time: {report['half_time_share']:.1%} of what it solves")


if __name__ == "__main__":
    main()

"""The bench of solve rates: its mixtures, its rows, what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "examples/bench/sudoku_solve_rate.py"


def report_of(*options: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), *options, "--threads", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_mixture_of_givens_and_a_row_per_threshold() -> None:
    options = ("--steps", "1", "--threshold", "0.5", "--threshold", "0.9")
    report = report_of("--count", "20", "--givens-mix", "30/40/30", *options)
    assert report["puzzles_by_givens"] == {"36+": 6, "30-35": 8, "24-29": 6}
    rows = report["models"][0]["rows"]
    assert [(row["steps"], row["sampler"], row["threshold"]) for row in rows] == [
        (1, "low_confidence_static", None),
        ("all", "low_confidence_dynamic", 0.5),
        ("all", "low_confidence_dynamic", 0.9),
    ]
    assert rows[0]["mean_steps"] == 1 < rows[1]["mean_steps"] < rows[2]["mean_steps"]
    for row in rows:
        shares = zip(row["solve_rate_by_givens"].values(), (6, 8, 6), strict=True)
        assert abs(sum(rate * n for rate, n in shares) / 20 - row["solve_rate"]) < 1e-9

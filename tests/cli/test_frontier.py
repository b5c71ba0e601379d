"""``edge frontier``: the table, the files it writes, and how it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.cli.prompt import EXAMPLE

Edge = Callable[..., Any]


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    (tmp_path / "puzzles.txt").write_text(f"{EXAMPLE}\n{EXAMPLE}\n")
    return str(tmp_path / "puzzles.txt")


def test_a_line_per_setting(edge: Edge, tasks: str) -> None:
    ended = edge("frontier", tasks, "--step-counts", "1,60", "--budgets", "30s")
    assert (ended.code, ended.err) == (0, "")
    about, columns, *lines = ended.out.splitlines()
    assert about.startswith("sudoku, 2 problems; ")
    assert columns.split()[:2] == ["setting", "right"]
    assert [line[:10].strip() for line in lines] == ["1 step", "60 steps", "3e+04 ms", "full run"]
    assert all(len(line) <= 80 for line in ended.out.splitlines()[1:])
    assert lines[-1].split()[2] == "100.0%"


def test_files_and_json_say_the_same(edge: Edge, tasks: str, tmp_path: Path) -> None:
    files = {"--csv": "out.csv", "--plot": "out.png"}
    ended = edge(
        "frontier", tasks, "--step-counts", "2", "--json", *(a for kv in files.items() for a in kv)
    )
    answer = json.loads(ended.out)
    assert answer["schema"] == 1
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["steps", "full"]
    for row, point in zip(rows, answer["points"], strict=True):
        assert set(row) == set(point)
        assert float(row["quality"]) == point["quality"]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "code", "wanted"),
    [
        (["absent.txt"], 2, "absent.txt"),
        (["--step-counts", "0"], 2, "list of whole numbers"),
        (["--budgets", "1ms,soon"], 2, "soon"),
        (["--step-counts", "1", "--plot", "out.pdf"], 2, ".png or .svg"),
        (["--step-counts", "1", "--csv", "no/such/folder.csv"], 5, "no/such"),
        (["--sampler", "none"], 2, "none"),
    ],
)
def test_refusals(edge: Edge, tasks: str, args: list[str], code: int, wanted: str) -> None:
    given = args if args[0] == "absent.txt" else [tasks, *args]
    ended = edge("frontier", *given)
    assert (ended.code, ended.out) == (code, "")
    assert wanted in ended.err
    assert len(ended.err.splitlines()) == 1

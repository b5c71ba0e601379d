"""Task files, what counts as right, and the figures of a setting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edge
from edge.cli.prompt import EXAMPLE
from edge.frontier import Problem, Setting, default_settings, read_problems, run_frontier
from edge.plots import draw_frontier


@pytest.fixture(scope="module")
def sudoku() -> Iterator[edge.Model]:
    with edge.load(threads=1) as model:
        yield model


@pytest.fixture
def chat(chat_model: Path) -> Iterator[edge.Model]:
    with edge.load(chat_model, threads=1) as model:
        yield model


def read(tmp_path: Path, model: edge.Model, *lines: Any, limit: int | None = None) -> list[Problem]:
    written = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path = tmp_path / "tasks.txt"
    path.write_text("\n".join(written))
    return read_problems(path, model, limit)


def test_prompts_that_the_model_s_task_checks(sudoku: edge.Model, tmp_path: Path) -> None:
    problems = read(tmp_path, sudoku, EXAMPLE, "", {"prompt": EXAMPLE}, "  " + EXAMPLE)
    assert [problem.prompt for problem in problems] == [EXAMPLE] * 3
    assert problems[0].is_right(sudoku.generate(EXAMPLE))
    assert not problems[0].is_right(sudoku.generate("." * 81, steps=1))
    assert len(read(tmp_path, sudoku, EXAMPLE, EXAMPLE, limit=1)) == 1


def test_answers_and_patterns(chat: edge.Model, tmp_path: Path) -> None:
    said = chat.generate("ab", max_tokens=8).text or ""
    right = {"prompt": "ab", "answer": f" {said}\n"}
    match = {"prompt": "ab", "pattern": "(?s).*"}
    wrong = {"prompt": "ab", "answer": said + "x"}
    problems = read(tmp_path, chat, right, match, wrong, {"prompt": "ab", "pattern": "x{99}"})
    result = chat.generate("ab", max_tokens=8)
    assert [problem.is_right(result) for problem in problems] == [True, True, False, False]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("just a prompt", "nothing says what answer is right"),
        ("{", "no JSON object"),
        ("[" * 9, "nothing says"),
        ("{" * 100_000, "no JSON object"),
        ('{"answer": "x"}', "an object with answer"),
        ("{}", "an object with nothing"),
        ('{"prompt": 5, "answer": "x"}', "an object with"),
        ('{"prompt": "a", "answers": "x"}', "an object with prompt, answers"),
        ('{"prompt": "a", "answer": "x", "pattern": "x"}', "neither one"),
        ('{"prompt": "a", "answer": 5}', "neither one"),
        ('{"prompt": "a", "pattern": "("}', "no regular expression"),
    ],
)
def test_lines_that_are_no_problem(
    chat: edge.Model, tmp_path: Path, line: str, wanted: str
) -> None:
    with pytest.raises(edge.RequestError, match=rf"line 2 of the task file: .*{wanted}") as caught:
        read(tmp_path, chat, {"prompt": "a", "answer": "b"}, line)
    assert "tasks.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_problem(sudoku: edge.Model, tmp_path: Path) -> None:
    with pytest.raises(edge.RequestError, match="has no line"):
        read(tmp_path, sudoku, "", "  ")
    with pytest.raises(edge.RequestError, match=r"line 1 .*not 81"):
        read(tmp_path, sudoku, "12.")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    with pytest.raises(edge.RequestError, match="not UTF-8"):
        read_problems(tmp_path / "latin", sudoku, None)


def test_every_problem_meets_every_setting(sudoku: edge.Model, tmp_path: Path) -> None:
    problems = read(tmp_path, sudoku, EXAMPLE, EXAMPLE)
    done: list[int] = []
    settings = [Setting(steps=2), Setting(budget_ms=60_000.0)]
    points = run_frontier(sudoku, problems, settings, options={}, advance=done.append)
    assert [point.setting for point in points] == [*settings, Setting()]
    assert [point.setting.kind for point in points] == ["steps", "budget", "full"]
    assert [point.count for point in points] == [2, 2, 2]
    assert done == [3, 6]
    assert points[0].nfe == 2
    for point in points[1:]:
        assert (point.quality, point.quality_error, point.complete, point.late) == (1, 0, 1, 0)


def test_settings_that_fit_the_model(sudoku: edge.Model, tmp_path: Path) -> None:
    settings = default_settings(sudoku, read(tmp_path, sudoku, EXAMPLE), {})
    steps = [setting.steps for setting in settings if setting.steps is not None]
    budgets = [s.budget_ms for s in settings if s.budget_ms is not None]
    assert steps == [1, 2, 4, 8, 16, 32]  # the example has 51 holes
    assert budgets == sorted(budgets)
    assert len(budgets) == 10


@pytest.mark.parametrize("name", ["out.png", "out.SVG"])
def test_a_picture(sudoku: edge.Model, tmp_path: Path, name: str) -> None:
    problems = read(tmp_path, sudoku, EXAMPLE)
    settings = [Setting(steps=1), Setting(steps=2), Setting(budget_ms=1e4)]
    points = run_frontier(sudoku, problems, settings, options={})
    draw_frontier(points, "a title", tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert content.startswith((b"\x89PNG", b"<?xml"))
    with pytest.raises(edge.RequestError, match=r"kind 'pdf'.*\.png or \.svg"):
        draw_frontier(points, "a title", tmp_path / "out.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "tasks.txt"]

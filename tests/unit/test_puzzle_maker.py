"""The C++ generator of training puzzles, against the Python solver and grader of the bench."""

from __future__ import annotations

import example_programs
import numpy as np
import pytest
from numpy.typing import NDArray

Puzzles = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


bench = example_programs.load("bench/sudoku_puzzles.py")
maker = example_programs.load("train/puzzle_maker.py")


@pytest.fixture(scope="module")
def sample() -> Puzzles:
    puzzles: Puzzles = maker.make_puzzles(3, 0, 60, 20, 46, 0)
    return puzzles


def text(cells: NDArray[np.uint8]) -> str:
    return "".join(map(str, cells))


def test_a_puzzle_has_its_solution_and_no_other(sample: Puzzles) -> None:
    for givens, solution, _ in zip(*sample, strict=True):
        assert bench.solve(text(givens)) == text(solution)
        assert bench.solve_count(text(givens)) == 1


def test_grades_are_those_of_the_bench(sample: Puzzles) -> None:
    grades = [bench.GRADES.index(bench.grade(text(givens))) for givens in sample[0]]
    assert sample[2].tolist() == grades
    assert set(grades) == {0, 1, 2}


def test_a_puzzle_depends_on_seed_and_number_alone(sample: Puzzles) -> None:
    for whole, part in zip(sample, maker.make_puzzles(3, 20, 5, 20, 46, 0), strict=True):
        assert np.array_equal(whole[20:25], part)
    other = maker.make_puzzles(4, 0, 60, 20, 46, 0)
    assert not (other[1] == sample[1]).all(1).any()


def test_the_number_of_givens_is_aimed_at(sample: Puzzles) -> None:
    counts = (sample[0] != 0).sum(1)
    assert 40 < counts.max() <= 46
    assert 20 <= counts.min() < 27
    easy = (maker.make_puzzles(3, 0, 30, 36, 38, 0)[0] != 0).sum(1)
    assert set(easy.tolist()) == {36, 37, 38}


def test_hard_puzzles_can_be_asked_for() -> None:
    assert (maker.make_puzzles(5, 0, 20, 24, 30, 100)[2] == 2).all()


def test_the_command_line_tells_rate_and_grades(capsys: pytest.CaptureFixture[str]) -> None:
    maker.main(["--count", "50", "--hard-percent", "100"])
    assert capsys.readouterr().out.endswith("; 0% easy, 0% medium, 100% hard\n")


@pytest.mark.parametrize("options", [("--count", "0"), ("--fewest", "30", "--most", "29")])
def test_the_command_line_refuses_what_cannot_be(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        maker.main(options)
    assert "wanted: --count from 1" in capsys.readouterr().err

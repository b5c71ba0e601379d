"""The C++ generator of Sudoku puzzles for training, built when it is first needed.

    python examples/train/puzzle_maker.py --count 5000 --fewest 24 --most 40 --hard-percent 40

says how many it makes per second, and of which grades.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("sudoku_puzzles.cpp")


def make_puzzles(
    seed: int, first: int, count: int, fewest: int, most: int, hard_percent: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The puzzles `first` to `first + count - 1` of a seed; each has one solution.

    Givens and solutions [count, 81], 0 for a hole; grades [count]: 0 if naked singles suffice, 1
    if hidden ones are needed, 2 for more. The number of givens aimed at is uniform in
    `fewest`..`most`; few grids can be thinned out below 24. At least `hard_percent` in a hundred
    have grade 2. Raises OSError without a C++ compiler called `c++`.
    """
    givens = np.empty((count, 81), np.uint8)
    solutions = np.empty_like(givens)
    grades = np.empty(count, np.uint8)
    addresses = (ctypes.c_void_p(a.ctypes.data) for a in (givens, solutions, grades))
    unsigned = ctypes.c_uint64
    _library().make_puzzles(
        unsigned(seed), unsigned(first), unsigned(count), fewest, most, hard_percent, *addresses
    )
    return givens, solutions, grades


@cache
def _library() -> ctypes.CDLL:
    if shutil.which("c++") is None:
        raise OSError("a C++ compiler called c++ is needed to make puzzles")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "sudoku_puzzles.so"
        command = ["c++", "-std=c++17", "-O2", "-shared", "-fPIC", "-o", built, SOURCE]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(built))


def main(argv: Sequence[str] | None = None) -> None:
    """Make puzzles and print what they took and what they are."""
    parser = argparse.ArgumentParser(description="Time the generator of Sudoku puzzles.")
    options = {"count": 5000, "seed": 0, "fewest": 24, "most": 40, "hard-percent": 0}
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    a = parser.parse_args(argv)
    if a.count < 1 or not 17 <= a.fewest <= a.most <= 81:
        parser.error("wanted: --count from 1, 17 <= --fewest <= --most <= 81")
    make_puzzles(a.seed, 0, 1, a.fewest, a.most, a.hard_percent)  # builds the library
    start = time.process_time()
    givens, _, grades = make_puzzles(a.seed, 0, a.count, a.fewest, a.most, a.hard_percent)
    rate = a.count / (time.process_time() - start)
    easy, medium, hard = np.bincount(grades, minlength=3) / a.count
    print(
        f"{rate:,.0f} puzzles per CPU-second; {(givens != 0).sum(1).mean():.1f} givens on average; "
        f"{easy:.0%} easy, {medium:.0%} medium, {hard:.0%} hard"
    )


if __name__ == "__main__":
    main()

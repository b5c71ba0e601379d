"""What the format of keys and values costs in error, on Sudokus at every share of open cells.

    python examples/bench/kv_errors.py
    python examples/bench/kv_errors.py --model FILE --count 1000

The same weights with keys and values in float32 are the measure. Of each puzzle a random share of
the holes is filled in rightly, and the distributions of the open cells are compared: mean KL
divergence in nats, how often the likeliest digit is the same, and the largest change of a
probability.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from report import print_table
from sudoku_puzzles import Puzzle, puzzles

import edge
from edge.backends.native import KV_FORMATS

FORMATS = tuple(name for name in KV_FORMATS if name not in ("auto", "f32"))
Probabilities = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description="Error of formats of keys and values.")
    parser.add_argument("--model", default="sudoku", help="file or embedded name (sudoku)")
    parser.add_argument("--count", type=int, default=300, help="number of puzzles (300)")
    parser.add_argument("--seed", type=int, default=0, help="of puzzles and shares (0)")
    parser.add_argument("--markdown", action="store_true", help="the table in Markdown")
    options = parser.parse_args()
    wanted = probabilities(options, "f32")
    rows = [row(name, probabilities(options, name), wanted) for name in FORMATS]
    print(f"{options.count} canvases, {len(wanted)} open cells")
    columns = ("keys and values", "KL, nats", "same digit", "largest change")
    print_table(columns, rows, markdown=options.markdown)


def probabilities(options: argparse.Namespace, kv: str) -> Probabilities:
    """Those of all open cells, [cells, vocab]."""
    with edge.load(options.model, kv=kv) as model:
        mask = model.config.diffusion.mask_token_id
        found = []
        for ids in canvases(options.count, options.seed):
            logits = model.logits(ids)[ids == mask].astype(np.float64)
            raised = np.exp(logits - logits.max(axis=1, keepdims=True))
            found.append(raised / raised.sum(axis=1, keepdims=True))
    return np.concatenate(found)


def canvases(count: int, seed: int) -> Iterator[NDArray[np.int32]]:
    random = np.random.default_rng(seed)
    for puzzle in islice(puzzles(seed), count):
        yield partly_solved(puzzle, random)


def partly_solved(puzzle: Puzzle, random: np.random.Generator) -> NDArray[np.int32]:
    """At least one cell is left open; a digit is its own token, an open cell is 0."""
    givens, solution = (
        np.array([int(cell) if cell.isdecimal() else 0 for cell in cells], np.int32)
        for cells in (puzzle.givens, puzzle.solution)
    )
    holes = np.flatnonzero(givens == 0)
    filled = random.permutation(holes)[: random.integers(len(holes))]
    givens[filled] = solution[filled]
    return givens


def row(name: str, found: Probabilities, wanted: Probabilities) -> list[str]:
    tiny = np.finfo(np.float64).tiny
    divergence = (wanted * (np.log(wanted + tiny) - np.log(found + tiny))).sum(axis=1).mean()
    same = (found.argmax(axis=1) == wanted.argmax(axis=1)).mean()
    return [name, f"{divergence:.2e}", f"{same:.2%}", f"{np.abs(found - wanted).max():.3f}"]


if __name__ == "__main__":
    main()

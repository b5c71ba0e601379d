"""What a storage type costs in error: by type, group and minima, on random and on real weights.

    python examples/bench/type_errors.py
    python examples/bench/type_errors.py --checkpoint DIR

The figure is the root mean square error over the root mean square weight, in percent. Of a
checkpoint all matrices count whose columns 128 divides, so that every type can store them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import print_table

from convert.checkpoint import open_checkpoint
from edge._native import dequantize, quantize
from edge.formats.groups import Choice, Layout, layout_for

GOLDEN = Path(__file__).parents[2] / "tests/golden/sudoku"
COLS = 1024
CHOICES = [("int8", Choice()), ("int8", Choice(128)), ("int8", Choice(32)), ("q8_0", Choice())]
CHOICES += [
    ("int4", Choice(size, has_minima)) for size in (128, 64, 32) for has_minima in (True, False)
]
CHOICES += [("q4_0", Choice())]
Matrix = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description="Error of storage types.")
    parser.add_argument("--checkpoint", type=Path, default=GOLDEN, metavar="DIR")
    parser.add_argument("--markdown", action="store_true", help="the table in Markdown")
    options = parser.parse_args()
    sources = dict(weights(options.checkpoint))
    rows = [row(kind, choice, sources) for kind, choice in CHOICES]
    print_table(("type", "bits per weight", *sources), rows, markdown=options.markdown)


def weights(checkpoint: Path) -> Iterator[tuple[str, list[Matrix]]]:
    random = np.random.default_rng(0)
    yield "normal", [random.standard_normal((512, COLS), np.float32)]
    yield "Laplace", [random.laplace(size=(512, COLS)).astype(np.float32)]
    yield "Student t, 4", [random.standard_t(4, (512, COLS)).astype(np.float32)]
    opened = open_checkpoint(checkpoint)
    shapes = {name: tensor.shape for name, tensor in opened.tensors.items()}
    names = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] % 128 == 0]
    yield checkpoint.name, [opened.tensors[name].values() for name in names]


def row(kind: str, choice: Choice, sources: dict[str, list[Matrix]]) -> list[str]:
    layout = layout_for(kind, COLS, choice)
    assert layout is not None
    errors = (f"{100 * error(kind, choice, matrices):.2f} %" for matrices in sources.values())
    return [in_words(layout), f"{8 * layout.group_bytes / layout.group_size:.3f}", *errors]


def in_words(layout: Layout) -> str:
    if not layout.is_own:
        return layout.type
    group = "row" if layout.group_size == COLS else f"g{layout.group_size}"
    return f"{layout.type} {group}" + (" with minima" if layout.has_minima else "")


def error(kind: str, choice: Choice, matrices: list[Matrix]) -> float:
    squares = squared_errors = 0.0
    for matrix in matrices:
        cols = matrix.shape[1]
        layout = layout_for(kind, cols, choice)
        assert layout is not None
        stored = quantize(kind, matrix, *layout.choices)
        read = dequantize(kind, stored, cols, *layout.choices)
        squared_errors += float(((read - matrix).astype(np.float64) ** 2).sum())
        squares += float((matrix.astype(np.float64) ** 2).sum())
    return float(np.sqrt(squared_errors / squares))


if __name__ == "__main__":
    main()

"""Embed a denoiser in an app: one model, several threads, a request that can be cancelled.

    python examples/04_embed_in_app.py

The model is loaded once. Threads may share it: their denoising steps take turns, and the
interpreter is free while a step runs. Every failure is an ``edge.EdgeError``.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import edge

EASY = ".15..2.7.....7.4..3..4...19..9.37...1...2.6.725......3..4..1...5.834976..61.58..4"
CONTRADICTION = "55" + "." * 79


class Solver:
    """What an app would keep: the model, and one flag per running request."""

    def __init__(self) -> None:
        self._model = edge.load("sudoku", threads=1)

    def solve(self, puzzle: str, cancel: edge.CancelFlag | None = None) -> str:
        try:
            result = self._model.generate(puzzle, cancel=cancel)
        except edge.RequestError as error:
            return f"refused: {error.what}"
        return f"{result.status}: {result.text}"

    def close(self) -> None:
        self._model.close()


def main() -> None:
    solver = Solver()
    with ThreadPoolExecutor(max_workers=3) as pool:
        answers = [pool.submit(solver.solve, EASY) for _ in range(3)]
        for answer in answers:
            print(answer.result())
    print(solver.solve(CONTRADICTION))
    cancel = edge.CancelFlag()
    threading.Timer(0.0, cancel.set).start()  # the user closes the window
    print(solver.solve("." * 81, cancel))
    solver.close()


if __name__ == "__main__":
    main()

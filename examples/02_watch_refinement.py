"""Watch a canvas being refined: every step yields the whole of it.

    python examples/02_watch_refinement.py [PUZZLE]

Committed cells are plain, the denoiser's present guesses are in brackets.
"""

from __future__ import annotations

import sys

import edge

PUZZLE = ".15..2.7.....7.4..3..4...19..9.37...1...2.6.725......3..4..1...5.834976..61.58..4"


def picture(draft: edge.Draft) -> str:
    cells = [
        f" {token} " if committed else f"({token})"
        for token, committed in zip(draft.draft_ids, draft.committed, strict=True)
    ]
    return "\n".join("".join(cells[row * 9 : row * 9 + 9]) for row in range(9))


def main() -> None:
    puzzle = sys.argv[1] if len(sys.argv) > 1 else PUZZLE
    with edge.load("sudoku") as model:
        for event in model.stream(puzzle, steps=6):
            if isinstance(event, edge.Draft):
                open_cells = len(event.ids) - int(event.committed.sum())
                print(f"step {event.step}, {open_cells} cells open\n{picture(event)}\n")
            elif isinstance(event, edge.Done):
                print("VERIFIED" if event.result.verified else "NOT SOLVED")


if __name__ == "__main__":
    main()

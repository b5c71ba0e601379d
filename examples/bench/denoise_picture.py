"""Draw a denoise as an SVG: the canvas after some of its steps, side by side.

    python examples/bench/denoise_picture.py OUT.svg [PUZZLE]

Givens and committed cells are bright (givens bold), the denoiser's present guesses are dim. Needs
no browser: the picture is text in an SVG.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.text import Text

import edge

PUZZLE = ".15..2.7.....7.4..3..4...19..9.37...1...2.6.725......3..4..1...5.834976..61.58..4"
NUM_STEPS = 8
SHOWN_STEPS = (0, 1, 4, 8)


def cells(model: edge.Model, puzzle: str, draft: edge.Draft | None) -> list[str]:
    """One string with markup per cell; before the first step only the givens are known."""
    if draft is None:
        return [f"[bold]{given}[/]" if given != "." else "·" for given in puzzle]
    pieces = [model.tokenizer.piece(int(token)) for token in draft.draft_ids]
    marks = ["bold" if given != "." else "green" for given in puzzle]
    return [
        f"[{mark}]{piece}[/]" if done else f"[dim]{piece}[/]"
        for piece, mark, done in zip(pieces, marks, draft.committed, strict=True)
    ]


def canvas(model: edge.Model, puzzle: str, step: int, draft: edge.Draft | None) -> Text:
    """The canvas after a step, with a title."""
    grid = model.task.draw(cells(model, puzzle, draft))
    return Text.from_markup(f"[bold cyan]step {step} of {NUM_STEPS}[/]\n{grid}")


def main() -> None:
    """Run the denoise and write the picture."""
    out = Path(sys.argv[1])
    puzzle = sys.argv[2] if len(sys.argv) > 2 else PUZZLE
    drafts: dict[int, edge.Draft | None] = {0: None}
    with edge.load() as model:
        model.generate(puzzle, steps=NUM_STEPS, on_step=lambda d: drafts.update({d.step: d}))
        shown = [canvas(model, puzzle, step, drafts[step]) for step in SHOWN_STEPS]
    console = Console(record=True, width=112, file=io.StringIO(), force_terminal=True)
    console.print(Columns(shown, padding=(0, 3)))
    title = f"{puzzle.count('.')} holes, {NUM_STEPS} steps"
    svg = console.export_svg(title=title, unique_id="edge")
    # rich names fonts on the web; any monospaced font will do.
    out.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()

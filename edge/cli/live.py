"""The live canvas: the newest draft, redrawn in place on stderr, gone at the end.

Looks that need no colour: committed is bold, a tentative guess dim and italic, a masked cell a
shade character, and text whose holes are filled dim.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.markup import escape
from rich.segment import ControlType
from rich.text import Text

from edge.cli.output import without_controls

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from edge.result import Draft
    from edge.tasks import Task
    from edge.tokenizer import Tokenizer

COMMITTED = "bold"
TENTATIVE = "dim italic"
MASKED = "dim"
GIVEN = "not bold dim"
SHADE = "\N{LIGHT SHADE}"

_FALLBACK_SIZE = (80, 24)


class LiveCanvas:
    """Draws drafts in place; leaves the terminal as it was.

    With ``holes`` what was given is drawn as well, around the holes of a text.
    """

    def __init__(self, tokenizer: Tokenizer, task: Task | None, *, holes: bool = False) -> None:
        self._tokenizer = tokenizer
        self._task = task
        self._picture = picture_of_holes if holes else picture
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._drawn: list[int] = []  # cells of each line on the screen

    def __enter__(self) -> LiveCanvas:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._fit_terminal()
        self._live.update(Text(), refresh=True)
        self._live.stop()

    def show(self, draft: Draft) -> None:
        """Draw ``draft`` over the last one."""
        width, height = self._fit_terminal()
        drawn = self._picture(self._tokenizer, self._task, draft, width, height - 2)
        lines = [_header(draft), *drawn]
        for line in lines:
            line.truncate(width)
        self._drawn = [line.cell_len for line in lines]
        self._live.update(Text("\n").join(lines), refresh=True)

    def _fit_terminal(self) -> tuple[int, int]:
        """Return the columns and lines there are; take back what a narrower terminal folded."""
        columns, lines = os.get_terminal_size(sys.stderr.fileno())
        size = (columns or _FALLBACK_SIZE[0], lines or _FALLBACK_SIZE[1])
        folded = sum(max(1, -(-cells // size[0])) for cells in self._drawn) - len(self._drawn)
        if folded:
            self._erase(len(self._drawn) + folded, back=len(self._drawn) - 1)
        self._console.size = size
        return size[0] - 1, size[1]  # no line may reach the last column: some terminals fold there

    def _erase(self, rows: int, back: int) -> None:
        """Erase upwards, then go down to where Live expects the cursor."""
        up = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * (rows - 1)
        self._console.control(Control(*up, (ControlType.ERASE_IN_LINE, 2)), Control.move(0, back))


def _header(draft: Draft) -> Text:
    wanted = draft.committed[draft.output_start :]
    if draft.given is not None and not draft.given.all():
        wanted = draft.committed[~draft.given]
    share = float(wanted.mean())
    block = f"  block {draft.block + 1}/{draft.num_blocks}" if draft.num_blocks > 1 else ""
    return Text(f"step {draft.step}  NFE {draft.nfe}{block}  committed {share:.0%}")


def picture(
    tokenizer: Tokenizer, task: Task | None, draft: Draft, width: int, height: int
) -> Sequence[Text]:
    """Return the drawn draft, at most ``height`` lines; text is folded to ``width`` cells."""
    looks = _looks(draft)
    if task is not None:
        return _task_lines(tokenizer, task, draft, looks)[:height]
    stretches = _stretches(tokenizer, draft.draft_ids, looks, draft.output_start)
    return _text_lines(stretches, width, height)


def picture_of_holes(
    tokenizer: Tokenizer, task: Task | None, draft: Draft, width: int, height: int
) -> Sequence[Text]:
    """Return the drawn draft of a text with holes, at most ``height`` lines around an open one."""
    looks = _looks(draft)
    if draft.given is not None:
        pairs = zip(draft.given.tolist(), looks, strict=True)
        looks = [GIVEN if fixed else look for fixed, look in pairs]
    if task is not None:
        return _task_lines(tokenizer, task, draft, looks)[:height]
    stretches = _stretches(tokenizer, draft.draft_ids, looks, 0)
    lines = Text.assemble(*stretches, overflow="fold").wrap(Console(), width)
    open_lines = (i for i, line in enumerate(lines) if _is_open(line))
    middle = next(open_lines, len(lines) - 1)
    first = max(0, min(middle - height // 2, len(lines) - height))
    return lines[first : first + height]


def _task_lines(tokenizer: Tokenizer, task: Task, draft: Draft, looks: list[str]) -> Sequence[Text]:
    cells = [
        _in_markup(SHADE if look == MASKED else tokenizer.piece(token), look)
        for token, look in zip(draft.draft_ids.tolist(), looks, strict=True)
    ]
    return list(Text.from_markup(task.draw(cells)).split("\n"))


def _is_open(line: Text) -> bool:
    """Whether anything on a line is still to be decided."""
    return any(span.style in (MASKED, TENTATIVE) for span in line.spans)


def _looks(draft: Draft) -> list[str]:
    """Return the style of each position."""
    guessed = draft.draft_ids != draft.ids
    return [
        COMMITTED if committed else TENTATIVE if is_guess else MASKED
        for committed, is_guess in zip(draft.committed.tolist(), guessed.tolist(), strict=True)
    ]


def _in_markup(piece: str, style: str) -> str:
    return f"[{style}]{escape(without_controls(piece))}[/]"


def _stretches(
    tokenizer: Tokenizer, ids: NDArray[np.int32], looks: list[str], start: int
) -> Iterator[tuple[str, str]]:
    """Yield text and style of neighbours that look alike.

    They are decoded together because one character may be several tokens.
    """
    for look, group in groupby(range(start, len(looks)), key=looks.__getitem__):
        positions = list(group)
        if look == MASKED:
            yield SHADE * len(positions), look
        else:
            yield without_controls(tokenizer.decode(ids[positions])), look


def _text_lines(stretches: Iterable[tuple[str, str]], width: int, height: int) -> Sequence[Text]:
    """Fold to ``width`` cells; keep the last ``height`` lines, masks behind them left out."""
    lines = Text.assemble(*stretches, overflow="fold").wrap(Console(), width)
    known = [i for i, line in enumerate(lines, start=1) if line.plain.strip(SHADE + " ")]
    end = max(height, known[-1] if known else 0)
    return lines[max(0, end - height) : end]

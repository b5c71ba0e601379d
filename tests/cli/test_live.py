"""What the live canvas draws, and that a real terminal is left as it was."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.cells import cell_len

from edge.cli.live import COMMITTED, GIVEN, MASKED, SHADE, TENTATIVE, picture, picture_of_holes
from edge.result import Draft
from edge.tasks.sudoku import Sudoku
from edge.tokenizer import Tokenizer

MASK = 0


class Tokens:
    """A tokenizer for drawing: the pieces of the tokens 1, 2, ..."""

    def __init__(self, pieces: list[str]) -> None:
        self.piece = ["?", *pieces].__getitem__

    def decode(self, ids: NDArray[np.int32]) -> str:
        return "".join(map(self.piece, ids.tolist()))


def draw(tokens: Tokens, draft: Draft, width: int, height: int, task: Any = None) -> list[Any]:
    return list(picture(cast(Tokenizer, tokens), task, draft, width, height))


def draft_of(known: int, guessed: int, length: int, start: int = 0) -> Draft:
    """Return a draft whose id at position i is i + 1: committed, then guessed, then masked."""
    ids = np.arange(1, length + 1, dtype=np.int32)
    positions = np.arange(length)
    return Draft(
        step=1,
        nfe=1,
        block=0,
        num_blocks=1,
        confidence=np.zeros(length, np.float32),
        ids=np.where(positions < known, ids, MASK),
        draft_ids=np.where(positions < known + guessed, ids, MASK),
        committed=positions < known,
        output_start=start,
    )


def looks(lines: list[Any]) -> list[tuple[str, str]]:
    """Return the styled stretches of the lines."""
    return [
        (line.plain[span.start : span.end], str(span.style))
        for line in lines
        for span in line.spans
    ]


def test_the_three_states_of_a_position_look_different() -> None:
    lines = draw(Tokens(["ab", "cd", "ef"]), draft_of(1, 1, 3), width=40, height=5)
    assert [line.plain for line in lines] == [f"abcd{SHADE}"]
    assert looks(lines) == [("ab", COMMITTED), ("cd", TENTATIVE), (SHADE, MASKED)]
    assert not set("".join((COMMITTED, TENTATIVE, MASKED)).split()) & {"red", "green", "blue"}


def test_the_prompt_is_not_drawn() -> None:
    lines = draw(Tokens(["ab", "cd", "ef"]), draft_of(2, 1, 3, start=1), width=40, height=5)
    assert [line.plain for line in lines] == ["cdef"]


def test_a_task_draws_one_styled_cell_per_position() -> None:
    digits = Tokens([str(i % 9 + 1) for i in range(81)])
    lines = draw(digits, draft_of(2, 1, 81), width=80, height=40, task=Sudoku())
    assert len(lines) == 13
    assert lines[1].plain == f"| 1 2 3 | {' '.join(SHADE * 3)} | {' '.join(SHADE * 3)} |"
    assert looks(lines[:2])[:3] == [("1", COMMITTED), ("2", COMMITTED), ("3", TENTATIVE)]


def test_markup_and_controls_in_a_piece_are_text() -> None:
    lines = draw(Tokens(["[bold]x[/]", "\x1b[2J", "\r"]), draft_of(3, 0, 3), 40, 5)
    assert [line.plain for line in lines] == ["[bold]x[/]\ufffd[2J\ufffd"]


def test_masks_behind_the_text_leave_before_the_text_does() -> None:
    lines = draw(Tokens(["word "] * 200), draft_of(20, 0, 200), width=10, height=4)
    assert len(lines) == 4
    assert any("word" in line.plain for line in lines)


def form_of(given: list[int], known: int, guessed: int, length: int) -> Draft:
    """The same with some positions given, which are drawn as well."""
    draft = draft_of(known, guessed, length, start=length)
    marks = np.isin(np.arange(length), given)
    ids = np.where(marks, np.arange(1, length + 1), draft.ids)
    drawn = np.where(marks, np.arange(1, length + 1), draft.draft_ids)
    committed = draft.committed | marks
    return dataclasses.replace(draft, ids=ids, draft_ids=drawn, committed=committed, given=marks)


def draw_form(tokens: Tokens, draft: Draft, width: int, height: int, task: Any = None) -> list[Any]:
    return list(picture_of_holes(cast(Tokenizer, tokens), task, draft, width, height))


def test_given_text_is_dim_and_holes_are_seen() -> None:
    draft = form_of([0, 4], known=2, guessed=1, length=5)
    lines = draw_form(Tokens(["ab", "cd", "ef", "gh", "ij"]), draft, 40, 5)
    assert [line.plain for line in lines] == [f"abcdef{SHADE}ij"]
    assert looks(lines) == [
        ("ab", GIVEN),
        ("cd", COMMITTED),
        ("ef", TENTATIVE),
        (SHADE, MASKED),
        ("ij", GIVEN),
    ]


@pytest.mark.parametrize("hole", [0, 100, 199])
def test_the_lines_around_an_open_hole_are_drawn(hole: int) -> None:
    given = [i for i in range(200) if i != hole]
    tokens = Tokens([f"word{i} " for i in range(200)])
    lines = draw_form(tokens, form_of(given, 0, 0, 200), width=30, height=5)
    assert len(lines) == 5
    assert any(SHADE in line.plain for line in lines)


def test_a_task_s_givens_are_dim_when_holes_are_filled() -> None:
    digits = Tokens([str(i % 9 + 1) for i in range(81)])
    draft = form_of(list(range(1, 81)), 0, 1, 81)
    lines = draw_form(digits, draft, 80, 40, task=Sudoku())
    assert looks(lines[:2])[:2] == [("1", TENTATIVE), ("2", GIVEN)]


PIECES = st.sampled_from(
    ["a", "the ", "漢字", "😀", "👩\u200d🚀", "é", "e\u0301", "\t", "\n", "-" * 90]
)


@given(st.lists(PIECES, min_size=1, max_size=60), st.integers(2, 60), st.integers(1, 8))
def test_no_line_is_wider_and_no_picture_higher_than_asked(
    pieces: list[str], width: int, height: int
) -> None:
    lines = draw(Tokens(pieces), draft_of(len(pieces), 0, len(pieces)), width, height)
    assert len(lines) <= height
    assert all(cell_len(line.plain.rstrip()) <= width for line in lines)


@given(
    st.lists(PIECES, min_size=1, max_size=60),
    st.sets(st.integers(0, 59)),
    st.integers(2, 60),
    st.integers(1, 8),
)
def test_no_picture_of_holes_is_larger_than_asked(
    pieces: list[str], given: set[int], width: int, height: int
) -> None:
    draft = form_of(sorted(given), len(pieces) // 2, 2, len(pieces))
    lines = draw_form(Tokens(pieces), draft, width, height)
    assert len(lines) <= height
    assert all(cell_len(line.plain.rstrip()) <= width for line in lines)


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Any]:
    """A tmux server of its own, run by arguments."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    socket = str(tmp_path / "tmux")

    def run(*args: str) -> str:
        command = ["tmux", "-S", socket, "-f", "/dev/null", *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    yield run
    subprocess.run(["tmux", "-S", socket, "kill-server"], capture_output=True, check=False)


def wait_for(tmux: Any, text: str, *options: str) -> str:
    """Return the screen as soon as ``text`` is on it."""
    screen = ""
    for _ in range(200):
        screen = tmux("capture-pane", "-p", *options)
        if text in screen:
            return str(screen)
        time.sleep(0.05)
    raise AssertionError(f"{text!r} never came:\n{screen}")


PROGRAM = Path(__file__).with_name("slow_program.py")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_shows_the_canvas_and_then_only_the_answer(tmux: Any, columns: int) -> None:
    command = f"{sys.executable} {PROGRAM} run --live 60; echo code=$?; sleep 60"
    tmux("new-session", "-d", "-x", str(columns), "-y", "10", f"echo before; {command}")
    drawn = wait_for(tmux, SHADE, "-e")
    assert re.search(r"\x1b\[1m(wörd\d+ )*wörd", drawn)  # bold
    assert re.search(r"\x1b\[[0;]*2;3m(\x1b\[39m\x1b\[49m)?wörd", drawn)  # dim and italic
    screen = wait_for(tmux, "code=0", "-S", "-", "-J").split()
    assert screen == ["before", *(f"wörd{i}" for i in range(60)), "code=0"]


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_shows_holes_in_their_text(tmux: Any, columns: int) -> None:
    command = f"{sys.executable} {PROGRAM} fill '[[MASK:40]]'; echo code=$?; sleep 60"
    tmux("new-session", "-d", "-x", str(columns), "-y", "10", f"echo before; {command}")
    drawn = wait_for(tmux, SHADE, "-e")
    assert re.search(r"\x1b\[[0;]*2mwörd999 ", drawn)  # dim
    assert re.search(r"\x1b\[[0;]*1m(\x1b\[39m\x1b\[49m)?(wörd\d+ )*wörd", drawn)  # bold
    screen = wait_for(tmux, "code=0", "-S", "-", "-J").split()
    assert screen == ["before", *(f"wörd{i}" for i in range(40)), "code=0"]


@pytest.mark.parametrize(
    ("args", "stdout", "environment", "drawn"),
    [
        ([], "file", {}, True),
        ([], "pipe", {}, False),
        (["--live"], "pipe", {}, True),
        (["--no-live"], "file", {}, False),
        (["--json"], "file", {}, False),
        (["--json", "--live"], "file", {}, True),
        ([], "file", {"TERM": "dumb"}, False),
        ([], "file", {"EDGE_LIVE": "0"}, False),
        ([], "file", {"NO_COLOR": "1"}, True),
    ],
)
def test_it_is_drawn_where_it_can_be_and_disturbs_nothing(
    tmp_path: Path, args: list[str], stdout: str, environment: dict[str, str], drawn: bool
) -> None:
    command = [sys.executable, PROGRAM, "run", "40", *args]
    with (tmp_path / "answer").open("wb+") as file:
        terminal = run_with_stderr_on_a_terminal(
            command, file if stdout == "file" else None, {"TERM": "xterm", **environment}
        )
    assert (SHADE.encode() in terminal) == drawn
    assert drawn or terminal == b""


def run_with_stderr_on_a_terminal(
    command: list[Any], stdout: Any, environment: dict[str, str]
) -> bytes:
    """Return what reaches the terminal."""
    screen, stderr = pty.openpty()
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **environment},
            check=True,
        )
        os.set_blocking(screen, False)
        with suppress(BlockingIOError):
            return os.read(screen, 2**20)
        return b""
    finally:
        os.close(screen)
        os.close(stderr)


@pytest.mark.parametrize("ask", ["run 500", "fill '[[MASK:500]]'"])
def test_ctrl_c_on_a_terminal_gives_the_cursor_back(tmux: Any, ask: str) -> None:
    command = f"{sys.executable} {PROGRAM} {ask}; echo code=$?; sleep 60"
    tmux("new-session", "-d", "-x", "60", "-y", "10", command)
    wait_for(tmux, SHADE)
    tmux("send-keys", "C-c")
    screen = wait_for(tmux, "code=130")
    assert SHADE not in screen
    assert tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"


def test_rich_is_only_loaded_to_draw() -> None:
    code = "import sys, edge.cli.run, edge.cli.generation_thread; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.util.find_spec("rich")

"""``edge chat``: turns from a script, turns on a terminal, and how they end."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import edge as library
from convert import convert
from edge.cli.group import group
from edge.cli.prompt import MAX_STDIN_BYTES

PROGRAM = Path(__file__).with_name("slow_program.py")

Edge = Callable[..., Any]


def turns(ended: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.out.splitlines()]


class TestScript:
    def test_a_line_is_a_turn_and_blank_ones_are_none(self, edge: Edge, chat_model: Path) -> None:
        args = ("chat", "-m", str(chat_model), "--json", "--tokens", "6")
        ended = edge(*args, stdin=b"hello\r\n\n  \nhow are you?\n/exit\nlast")
        assert (ended.code, ended.err) == (0, "")
        said = turns(ended)
        prompts = [turn["prompt"] for turn in said]
        assert prompts == ["hello", "how are you?", "/exit", "last"]
        assert [turn["turn"] for turn in said] == [1, 2, 3, 4]
        assert all(turn["schema"] == 1 and turn["dropped_turns"] == 0 for turn in said)
        with library.load(chat_model) as model:
            conversation = model.conversation(max_tokens=6)
            assert [conversation.say(text).ids for text in prompts] == [t["ids"] for t in said]

    def test_a_turn_stores_only_what_is_new(self, edge: Edge, chat_model: Path) -> None:
        args = ("chat", "-m", str(chat_model), "--json", "--tokens", "6")
        first, second, third = turns(edge(*args, stdin=b"hello\nhi\nho\n"))
        assert first["reused_tokens"] == 0
        for before, turn in ((first, second), (second, third)):
            assert before["prompt_tokens"] - 4 <= turn["reused_tokens"] < turn["prompt_tokens"]

    def test_answers_follow_each_other(self, edge: Edge, chat_model: Path) -> None:
        args = ("chat", "-m", str(chat_model), "--tokens", "6")
        said = turns(edge(*args, "--json", stdin=b"a\nb\n"))
        plain = edge(*args, "--stats", stdin=b"a\nb\n")
        assert plain.out == "".join(turn["text"] + "\n" for turn in said)
        lines = plain.err.splitlines()
        assert lines[0].endswith(f", 0 of {said[0]['prompt_tokens']} kept")
        kept = f"{said[1]['reused_tokens']} of {said[1]['prompt_tokens']} kept"
        assert lines[1].endswith(f", {kept}")

    def test_what_the_model_is_told_before(self, edge: Edge, chat_model: Path) -> None:
        args = ("chat", "-m", str(chat_model), "--json", "--tokens", "6")
        plain, told = (
            turns(edge(*args, *more, stdin=b"a\n"))[0]
            for more in ((), ("--system", "Be brief.<|im_end|>"))
        )
        added = len("<|im_start|>system\nBe brief.<|im_end|><|im_end|>\n") - len("<|im_start|>")
        added += 1 - len("<|im_end|>") + 1
        assert told["prompt_tokens"] - plain["prompt_tokens"] == added

    def test_a_full_context_ends_a_script_or_drops_turns(
        self, edge: Edge, chat_model: Path
    ) -> None:
        args = ("chat", "-m", str(chat_model), "--json", "--tokens", "16")
        script = b"".join(bytes([letter]) * 100 + b"\n" for letter in b"abcdef")
        full = edge(*args, stdin=script)
        assert full.code == 2
        assert full.err.count("\n") == 1
        assert "undo or reset" in full.err
        assert "--on-full drop-oldest" in full.err
        *answered, error = full.out.splitlines(keepends=True), None
        assert error is None
        assert '"status": "error"' in full.out
        dropping = turns(edge(*args, "--on-full", "drop-oldest", stdin=script))
        assert len(dropping) == 6
        assert sum(turn["dropped_turns"] for turn in dropping) > 0
        assert all(turn["complete"] for turn in dropping)
        assert answered

    @pytest.mark.parametrize("budget", ["0.001", "100s"])
    def test_a_budget_is_for_each_turn(self, edge: Edge, chat_model: Path, budget: str) -> None:
        args = ("chat", "-m", str(chat_model), "--json", "--tokens", "6", "--budget", budget)
        said = turns(edge(*args, stdin=b"a\nb\n"))
        wanted = "complete" if budget == "100s" else "deadline_infeasible"
        assert [turn["status"] for turn in said] == [wanted] * 2
        assert len({turn["budget_ms"] for turn in said}) == 1

    def test_the_click_runner_gets_the_same(self, chat_model: Path) -> None:
        done = CliRunner().invoke(
            group, ["chat", "-m", str(chat_model), "--tokens", "4", "--json"], input="hello\n"
        )
        assert done.exit_code == 0
        assert json.loads(done.output)["prompt"] == "hello"

    @pytest.mark.parametrize(
        ("args", "stdin", "code", "words"),
        [
            ((), b"hi\n", 4, ("no chat template", "edge run")),
            (("--steps", "0"), b"hi\n", 2, ("--steps",)),
            (("--on-full", "panic"), b"", 2, ("--on-full",)),
            (("-m", "missing.gguf"), b"hi\n", 5, ("(missing.gguf)",)),
            (("-m", "CHAT"), b"ok\n\xff\n", 2, ("line 2 on stdin is not UTF-8",)),
            (("-m", "CHAT"), b"a" * (MAX_STDIN_BYTES + 1), 2, ("line 1 on stdin is longer",)),
            (("-m", "CHAT", "--threshold", "0.5", "--sampler", "random"), b"a\n", 2, ("effect",)),
        ],
    )
    def test_what_cannot_be_served_is_one_line(
        self,
        edge: Edge,
        chat_model: Path,
        args: tuple[str, ...],
        stdin: bytes,
        code: int,
        words: tuple[str, ...],
    ) -> None:
        given = [str(chat_model) if arg == "CHAT" else arg for arg in args]
        ended = edge("chat", *given, "--tokens", "4", stdin=stdin)
        assert ended.code == code
        assert ended.err.count("\n") == 1
        assert all(word in ended.err for word in words), ended.err

    @pytest.mark.parametrize(
        ("template", "code", "words"),
        [
            ("{% for i in range(10**9) %}{{ i }}{% endfor %}", 3, "chat template cannot be used"),
            ("{{ raise_exception('only questions') }}", 2, "only questions"),
            ("{{ messages.x.y }}", 3, "chat template cannot be used"),
            ("no words of yours", 0, ""),
        ],
    )
    def test_a_hostile_template_costs_a_line(
        self,
        edge: Edge,
        chat_checkpoint: Path,
        tmp_path: Path,
        template: str,
        code: int,
        words: str,
    ) -> None:
        folder = shutil.copytree(chat_checkpoint, tmp_path / "checkpoint")
        (folder / "chat_template.jinja").write_text(template)
        convert(folder, tmp_path / "model.gguf", "f32")
        args = ("chat", "-m", str(tmp_path / "model.gguf"), "--tokens", "4", "--json")
        ended = edge(*args, stdin=b"one\ntwo\n")
        assert ended.code == code
        assert words in ended.err
        assert ended.err.count("\n") == (code > 0)
        assert len(ended.out.splitlines()) >= (1 if code else 2)

    def test_nothing_to_say_is_no_error(self, edge: Edge, chat_model: Path) -> None:
        ended = edge("chat", "-m", str(chat_model))
        assert (ended.code, ended.out, ended.err) == (0, "", "")

    def test_answers_come_while_the_script_is_still_open(self) -> None:
        with slow_chat(stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for number in (2, 3):
                process.stdin.write(b"%d\n" % number)
                process.stdin.flush()
                line = process.stdout.readline().decode()
                assert line.split() == [f"wörd{i}" for i in range(number)]
            process.communicate(timeout=20)
            assert process.returncode == 0

    def test_ctrl_c_ends_a_script_with_130(self) -> None:
        with slow_chat(stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"500\n3\n")
            process.stdin.flush()
            first = os.read(process.stdout.fileno(), 65536)
            process.send_signal(signal.SIGINT)
            rest, err = process.communicate(timeout=20)
        words = (first + rest).decode().split()
        assert words == [f"wörd{i}" for i in range(len(words))]
        assert process.returncode == 130
        assert b"interrupted after" in err


class slow_chat:
    """``edge chat`` with the slow denoiser as a process; killed at the end."""

    def __init__(self, **streams: Any) -> None:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, str(PROGRAM), "chat"]
        self._process = subprocess.Popen(command, **{**pipes, **streams})

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(ValueError):
            self._process.communicate()


class Terminal:
    """A program on a terminal of its own: what it shows, what is typed."""

    def __init__(self, *args: str, **environment: str) -> None:
        self.screen = b""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:  # the child
            os.environ.update({"TERM": "xterm", "COLUMNS": "80", **environment})
            os.execv(sys.executable, [sys.executable, *args])
        os.set_blocking(self._fd, False)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, text: str) -> str:
        """Read until ``text`` is shown; return what was, up to it, and forget that."""
        wanted, end = text.encode(), time.monotonic() + 20
        while wanted not in self.screen:
            with suppress(BlockingIOError, OSError):
                self.screen += os.read(self._fd, 65536)
            if time.monotonic() > end:
                raise AssertionError(f"{text!r} never came: {self.screen!r}")
            time.sleep(0.005)
        shown, _, self.screen = self.screen.partition(wanted)
        return shown.decode(errors="replace")

    def ended(self) -> int:
        """Return the exit code once the program has ended; keep what it still shows."""
        for _ in range(4000):
            with suppress(BlockingIOError, OSError):
                self.screen += os.read(self._fd, 65536)
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        raise AssertionError(f"it does not end: {self.screen!r}")

    def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """``terminal("edge/program.py", "chat")``: such a program."""
    opened: list[Terminal] = []

    def start(*args: str, **environment: str) -> Terminal:
        opened.append(Terminal(*args, **environment))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class TestTerminal:
    @pytest.fixture
    def chat(self, terminal: Callable[..., Terminal]) -> Terminal:
        """The slow denoiser, greeted and ready."""
        started = terminal(str(PROGRAM), "chat")
        greeting = started.wait_for("> ")
        assert "Ctrl-C stops an answer, Ctrl-D leaves" in greeting
        assert "\x1b[31m" not in greeting
        return started

    def test_turns_are_drawn_and_then_only_the_answer_stays(self, chat: Terminal) -> None:
        chat.type("30\n")
        chat.wait_for(HIDE)
        chat.wait_for("░")
        drawn = chat.wait_for(SHOW)
        assert "wörd" in drawn
        answer = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", chat.wait_for("> "))
        assert answer.split() == [f"wörd{i}" for i in range(30)]
        chat.type("2\n")
        chat.wait_for("wörd0 wörd1 \r\n")
        chat.wait_for("> ")
        chat.type("\x04")
        assert chat.ended() == 0

    def test_ctrl_c_stops_the_answer_and_not_the_chat(self, chat: Terminal) -> None:
        chat.type("500\n")
        chat.wait_for("░")
        chat.type("\x03")
        chat.type("\x03")  # impatient
        assert SHOW in chat.wait_for("stopped")
        chat.wait_for("> ")
        chat.type("1\n")
        chat.wait_for("wörd0 \r\n")
        chat.wait_for("> ")
        chat.type("\x03")
        chat.wait_for("Ctrl-D or /exit leaves")
        chat.wait_for("> ")
        chat.type("/exit\n")
        assert chat.ended() == 0
        assert HIDE not in chat.screen.decode()

    def test_commands(self, chat: Terminal) -> None:
        for typed, told in (
            ("/help", "forget all turns"),
            ("/undo", "there is no turn"),
            ("/nonsense", "no command"),
            ("/reset", "all turns are forgotten"),
        ):
            chat.type(typed + "\n")
            chat.wait_for(told)
            chat.wait_for("> ")
        chat.type("1\n")
        chat.wait_for("wörd0 \r\n")
        chat.wait_for("> ")
        chat.type("/undo\n")
        chat.wait_for("the last turn is forgotten")
        chat.wait_for("> ")

    def test_what_fails_ends_a_turn_only(self, chat: Terminal) -> None:
        chat.type("fail\n")
        chat.wait_for("edge: error: it cannot be served - say something else")
        chat.wait_for("> ")
        chat.type("broken\n")
        chat.wait_for("edge: error: blk.3.attn_q: not finite")
        chat.wait_for("> ")
        chat.type("1\n")
        chat.wait_for("wörd0 \r\n")

    def test_nothing_is_drawn_where_it_cannot_be(self, terminal: Callable[..., Terminal]) -> None:
        chat = terminal(str(PROGRAM), "chat", TERM="dumb")
        chat.wait_for("> ")
        chat.type("20\n")
        shown = chat.wait_for("wörd19 \r\n")
        assert HIDE not in shown
        assert "░" not in shown

    def test_sigterm_ends_it(self, chat: Terminal) -> None:
        chat.type("500\n")
        chat.wait_for("░")
        os.kill(chat._pid, signal.SIGTERM)
        assert chat.ended() == 143
        assert chat.screen.decode().rfind(SHOW) > chat.screen.decode().rfind(HIDE)

    def test_a_real_model_remembers(
        self, terminal: Callable[..., Terminal], chat_model: Path
    ) -> None:
        args = ("-m", "edge", "chat", "-m", str(chat_model), "--tokens", "4", "--stats")
        chat = terminal(*args)
        chat.wait_for("> ")
        chat.type("hello\n")
        assert ", 0 of " in chat.wait_for(" kept")
        chat.wait_for("> ")
        chat.type("again\n")
        assert ", 0 of " not in chat.wait_for(" kept")
        chat.wait_for("> ")
        chat.type("/exit\n")
        assert chat.ended() == 0


def test_answers_may_go_elsewhere(tmp_path: Path) -> None:
    """The terminal keeps the questions, a file gets the answers and nothing else."""
    keyboard, screen = pty.openpty()
    try:
        with (tmp_path / "answers").open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, PROGRAM, "chat", "--no-live"],
                stdin=screen,
                stdout=file,
                stderr=screen,
            )
            os.write(keyboard, b"2\n3\n\x04")
            assert process.wait(timeout=30) == 0
    finally:
        os.close(keyboard)
        os.close(screen)
    assert (tmp_path / "answers").read_text() == "wörd0 wörd1 \nwörd0 wörd1 wörd2 \n"

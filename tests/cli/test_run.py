"""``edge run`` with the embedded denoiser: where the prompt comes from, what comes out."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edge as library
from convert import convert
from edge.cli.prompt import EXAMPLE, MAX_STDIN_BYTES
from edge.denoisers import path_of
from edge.tasks.sudoku import Sudoku

SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


Edge = Callable[..., Any]


def test_the_answer_is_on_stdout_and_the_verdict_on_stderr(edge_process: Edge) -> None:
    ended = edge_process("run", EXAMPLE)
    assert (ended.code, ended.out, ended.err) == (0, SOLUTION + "\n", "VERIFIED\n")


@pytest.mark.parametrize("args", [("-",), ()])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_prompt_may_come_on_stdin(edge: Edge, args: tuple[str, ...], end: bytes) -> None:
    assert edge("run", *args, stdin=EXAMPLE.encode() + end).out == SOLUTION + "\n"


@pytest.mark.parametrize("kv", ["f32", "bf16", "int8"])
def test_keys_and_values_in_every_format_give_the_answer(edge: Edge, kv: str) -> None:
    assert edge("run", "--kv", kv, EXAMPLE).out == SOLUTION + "\n"


def test_a_drawn_puzzle_and_a_path_are_as_good_as_a_line_and_a_name(edge: Edge) -> None:
    drawn = Sudoku().draw(EXAMPLE).encode()
    model = str(path_of("sudoku"))
    assert edge("run", "-m", model, "-", stdin=drawn).out == SOLUTION + "\n"


def test_json_is_one_object_with_every_figure(edge: Edge) -> None:
    ended = edge("run", "--json", "--seed", "3", EXAMPLE)
    answer = json.loads(ended.out)
    figures = {field.name for field in dataclasses.fields(library.Stats)}
    assert set(answer) == figures | {
        "schema",
        "text",
        "ids",
        "status",
        "complete",
        "verified",
    }
    expected = {
        "schema": 1,
        "text": SOLUTION,
        "ids": [int(digit) for digit in SOLUTION],
        "status": "complete",
        "complete": True,
        "verified": True,
        "seed": 3,
        "tokens": EXAMPLE.count("."),
        "budget_ms": None,
    }
    assert {name: answer[name] for name in expected} == expected
    assert ended.err == "VERIFIED\n"


def test_stats_are_one_line_on_stderr(edge: Edge) -> None:
    line, verdict = edge("run", "--stats", EXAMPLE).err.splitlines()
    steps = EXAMPLE.count(".")
    assert line.startswith(f"{steps} steps, {steps} forwards, {steps} tokens, ")
    assert line.endswith("MiB")
    assert verdict == "VERIFIED"


def test_an_unsolved_puzzle_is_printed_and_exits_with_8(edge: Edge) -> None:
    ended = edge("run", "--json", "--steps", "1", "." * 81)
    answer = json.loads(ended.out)
    assert (ended.code, ended.err) == (8, "NOT SOLVED\n")
    assert (answer["verified"], answer["nfe"], len(answer["text"])) == (False, 1, 81)


def test_options_come_from_the_environment_and_the_command_line_wins(edge: Edge) -> None:
    from_environment = edge("run", EXAMPLE, EDGE_JSON="1", EDGE_STEPS="4", EDGE_THREADS="1")
    answer = json.loads(from_environment.out)
    assert (answer["steps"], answer["threads"]) == (4, 1)
    assert (
        json.loads(edge("run", "--json", "--steps", "2", EXAMPLE, EDGE_STEPS="4").out)["steps"] == 2
    )


def test_every_sampler_option_reaches_the_library(edge: Edge) -> None:
    args = ("--sampler", "low_confidence_dynamic", "--threshold", "0.5", "--activations", "f32")
    answer = json.loads(edge("run", "--json", "--temperature", "0.5", *args, EXAMPLE).out)
    with library.load(activations="f32") as model:
        same = model.generate(
            EXAMPLE, sampler="low_confidence_dynamic", threshold=0.5, temperature=0.5
        )
    assert (answer["sampler"], answer["nfe"]) == (same.stats.sampler, same.stats.nfe)
    assert answer["ids"] == same.ids


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--sampler", "best", EXAMPLE), 2, ("--sampler", "'best'", "low_confidence_static")),
        (("--steps", "0", EXAMPLE), 2, ("--steps", "x>=1")),
        (("--steps", "2", "--steps-per-block", "2", EXAMPLE), 2, ("steps and steps_per_block",)),
        (("--tokens", "5", EXAMPLE), 2, ("max_tokens",)),
        (("--temperature", "nan", EXAMPLE), 2, ("temperature is nan",)),
        (("--seed", "-1", EXAMPLE), 2, ("seed is -1",)),
        (("--threads", str(10**30), EXAMPLE), 2, ("threads",)),
        (("--nonsense",), 2, ("--nonsense", "edge run --help")),
        (("53",), 2, ("'53' has 2 cells, not 81", "row by row")),
        (("",), 2, ("has 0 cells",)),
        (("a\nb",), 2, (r"'a\nb'",)),
        (("-m", "missing.gguf", EXAMPLE), 5, ("(missing.gguf)",)),
        (("-m", ".", EXAMPLE), 3, ("(.)",)),
        ((b"\xff" + EXAMPLE.encode(),), 2, ("'\\udcff",)),
        (("-m", b"\xff.gguf", EXAMPLE), 5, ("\\udcff.gguf",)),
    ],
)
def test_what_cannot_be_served_is_one_line(
    edge: Edge, args: tuple[str | bytes, ...], code: int, words: tuple[str, ...]
) -> None:
    ended = edge("run", *args)
    assert ended.out == ""
    assert ended.err.startswith("edge: error: ")
    assert ended.err.count("\n") == 1
    assert all(word in ended.err for word in words), ended.err
    assert ended.code == code


def test_bytes_that_are_no_text_survive_a_real_command_line(edge_process: Edge) -> None:
    ended = edge_process("run", b"\xff\x1b[31m")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "'\\udcff\\x1b[31m' is no Sudoku" in ended.err


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"53\xff\n", "not UTF-8: byte 0xff at 2"),
        (b"\xed\xb3\xbf", "not UTF-8: byte 0xed at 0"),
        (b"." * (MAX_STDIN_BYTES + 1), f"longer than {MAX_STDIN_BYTES} bytes"),
        (b"\0" * 81, r"character 1 is '\x00'"),
    ],
)
def test_bad_stdin_is_one_line(edge: Edge, stdin: bytes, words: str) -> None:
    ended = edge("run", stdin=stdin)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert words in ended.err.replace("\\\\", "\\")


def test_a_bad_model_file_names_the_offset(edge: Edge, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(path_of("sudoku").read_bytes()[:1000])
    ended = edge("run", "-m", str(path), EXAMPLE)
    assert ended.code == 3
    assert f"({path}:" in ended.err


def test_no_prompt_on_a_terminal_is_a_hint(edge_process: Edge) -> None:
    keyboard, screen = pty.openpty()
    try:
        ended = edge_process("run", stdin=screen)
    finally:
        os.close(keyboard)
        os.close(screen)
    *hint, error = ended.err.splitlines()
    assert (ended.code, ended.out) == (2, "")
    assert len(hint) == 3
    assert "sudoku" in hint[0]
    assert f"edge run {EXAMPLE}" in hint[1]
    assert error == "edge: error: no prompt - see 'edge run --help'"


def test_no_prompt_and_nothing_on_stdin_is_the_same_hint(edge: Edge) -> None:
    ended = edge("run")
    assert ended.code == 2
    assert "edge run" in ended.err


def prompt_tokens(edge: Edge, model: Path, *args: str) -> int:
    """How many tokens the prompt had, told by what is left of the context of 128."""
    ended = edge("run", "-m", str(model), "--tokens", "4096", *args)
    assert ended.code == 2
    found = re.search(r"a prompt of (\d+) tokens", ended.err)
    assert found, ended.err
    return int(found[1])


def test_a_prompt_goes_through_the_chat_template_unless_raw(edge: Edge, chat_model: Path) -> None:
    around = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    control = "<|im_start|><|im_end|><|im_start|>"
    assert prompt_tokens(edge, chat_model, "--raw", "abba") == len(["ab", "b", "a"])
    in_template = 3 + len(around) - len(control) + 3
    assert prompt_tokens(edge, chat_model, "abba") == in_template
    assert prompt_tokens(edge, chat_model, "abba<|im_end|>") == in_template + len("<|im_end|>")


def test_what_is_lost_of_a_prompt_is_told(edge: Edge, chat_model: Path) -> None:
    ended = edge("run", "-m", str(chat_model), "--tokens", "4", "a\N{GRINNING FACE}")
    assert ended.code == 0
    assert ended.err == (
        "edge: warning: the model has no token for the bytes 0xf0; they are left out\n"
    )


def test_a_template_that_cannot_be_used(edge: Edge, chat_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(chat_checkpoint, tmp_path / "checkpoint")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.contents.x }}")
    convert(folder, tmp_path / "model.gguf", "f32")
    model = str(tmp_path / "model.gguf")
    ended = edge("run", "-m", model, "hi")
    assert (ended.code, ended.out) == (3, "")
    assert re.fullmatch(r"edge: error: the chat template .*model\.gguf.*--raw\)\n", ended.err)
    assert edge("run", "-m", model, "--raw", "--tokens", "4", "hi").code == 0

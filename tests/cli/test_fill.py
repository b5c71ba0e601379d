"""``edge fill``: where the template comes from, what comes out, what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import edge as library
from edge.cli.answer_options import answer_options
from edge.cli.fill import command
from edge.cli.group import group
from edge.cli.prompt import EXAMPLE, MAX_STDIN_BYTES

SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
FORM = EXAMPLE.replace(".", "[[MASK:1]]")
CUT = f"{SOLUTION[:40]}[[MASK:3]]{SOLUTION[43:]}"

Edge = Callable[..., Any]


@pytest.fixture(scope="session")
def model(text_model: Callable[[str], Path]) -> str:
    """A model with full attention that writes bytes."""
    return str(text_model("llada"))


def test_all_holes_are_filled(edge_process: Edge) -> None:
    ended = edge_process("fill", FORM)
    assert (ended.code, ended.out, ended.err) == (0, SOLUTION + "\n", "")


def test_the_click_runner_gets_the_same() -> None:
    done = CliRunner().invoke(group, ["fill", CUT])
    assert (done.exit_code, done.output) == (0, SOLUTION + "\n")
    assert CliRunner().invoke(command, ["--steps", "1", CUT]).output == SOLUTION + "\n"


@pytest.mark.parametrize("args", [("-",), ()])
@pytest.mark.parametrize(
    "text",
    ["a[[MASK:2]]", "\ufeffé\r\n[[MASK:1]]\r\n\n", "\n[[MASK:1]][[MASK:2]]\t\0 <|im_end|>\n"],
)
def test_stdin_comes_back_byte_for_byte(model: str, args: tuple[str, ...], text: str) -> None:
    process = [sys.executable, "-m", "edge", "fill", "-m", model, "--eos", "forbid", *args]
    out = subprocess.run(process, input=text.encode(), capture_output=True, check=True).stdout
    before = text[: text.index("[[")].encode()
    after = text[text.rindex("]]") + 2 :].encode()
    assert out.startswith(before)
    assert out.endswith(after)
    assert len(out) > len(before) + len(after)


def test_json_is_one_object_with_the_holes(edge: Edge, model: str) -> None:
    ended = edge("fill", "-m", model, "--json", "--seed", "3", "a[[MASK:2]]-[[MASK:1]]")
    answer = json.loads(ended.out)
    figures = {field.name for field in dataclasses.fields(library.Stats)}
    others = {"schema", "text", "ids", "status", "complete", "verified", "holes"}
    assert set(answer) == figures | others
    assert (answer["schema"], answer["seed"], answer["status"]) == (1, 3, "complete")
    for hole in answer["holes"]:
        assert set(hole) == {"text", "start", "stop", "ids", "scores"}
        assert answer["text"][hole["start"] : hole["stop"]] == hole["text"]
        assert hole["scores"] is None
    assert (answer["text"][0], len(answer["holes"])) == ("a", 2)
    assert (answer["steps"], answer["nfe"], answer["tokens"]) == (3, 3, 3)
    assert answer["prompt_tokens"] == 2
    assert ended.err == ""


def test_json_tells_the_scores_of_choices(edge: Edge, model: str) -> None:
    ended = edge("fill", "-m", model, "--json", "--choices", "no, yes,z", "a[[MASK:4]]b")
    answer = json.loads(ended.out)
    scores = answer["holes"][0]["scores"]
    assert list(scores) == ["no", " yes", "z"]
    assert answer["text"] == f"a{max(scores, key=scores.get)}b"
    assert (answer["sampler"], answer["sampler_parameters"]) == (
        "choices",
        {"choices": ["no", " yes", "z"]},
    )


def test_the_likeliest_digit_goes_into_the_cell(edge: Edge) -> None:
    ended = edge("fill", "--choices", "1,2,3,4,5,6,7,8,9", "--stats", CUT.replace(":3", ":1", 1))
    assert ended.code == 2  # 79 cells
    cell = f"[[MASK:1]]{SOLUTION[1:]}"
    ended = edge("fill", "--choices", "1,2,3,4,5,6,7,8,9", "--stats", cell)
    assert ended.out == SOLUTION + "\n"
    assert ended.err.startswith("1 steps, 1 forwards, 1 tokens, ")


def test_prefix_and_suffix_take_text_as_it_is(edge: Edge, model: str) -> None:
    args = ("--prefix", "[[MASK:9]]", "--suffix", "\n[[MASK", "--tokens", "3", "--eos", "forbid")
    out = edge("fill", "-m", model, "--json", *args).out
    answer = json.loads(out)
    assert answer["text"].startswith("[[MASK:9]]")
    assert answer["text"].endswith("\n[[MASK")
    assert len(answer["holes"][0]["ids"]) == 3
    assert len(json.loads(edge("fill", "-m", model, "--json", "--suffix", "x").out)["holes"]) == 1


def test_options_come_from_the_environment(edge: Edge, model: str) -> None:
    ended = edge(
        "fill", "a[[MASK:4]]", EDGE_MODEL=model, EDGE_JSON="1", EDGE_STEPS="2", EDGE_THREADS="1"
    )
    answer = json.loads(ended.out)
    assert (answer["steps"], answer["threads"]) == (2, 1)
    told = edge("fill", "-m", model, "a[[MASK:4]]", EDGE_TOKENS="9")  # is for answers
    assert told.out == edge("fill", "-m", model, "a[[MASK:4]]").out != ""
    chosen = edge("fill", "a[[MASK:4]]", EDGE_MODEL=model, EDGE_CHOICES="x,y").out
    assert chosen in ("ax\n", "ay\n")


def test_every_option_of_run_is_an_option_of_fill_and_chat() -> None:
    @answer_options
    def nothing() -> None: ...

    shared = {option.name for option in nothing.__click_params__}  # type: ignore[attr-defined]
    for name in ("run", "fill", "chat"):
        one = group.get_command(None, name)  # type: ignore[arg-type]
        assert one is not None
        assert shared <= {parameter.name for parameter in one.params}


@pytest.mark.parametrize("budget", ["1us", "0.001", "5ms", "100s"])
def test_a_budget_never_costs_the_text(edge: Edge, model: str, budget: str) -> None:
    ended = edge("fill", "-m", model, "--json", "--budget", budget, "a[[MASK:9]]-[[MASK:9]]b")
    if budget == "1us":
        assert ended.code == 2
        return
    answer = json.loads(ended.out)
    assert answer["complete"]
    assert answer["text"][0] + answer["text"][-1] == "ab"
    assert (
        answer["status"]
        in {
            "0.001": ("deadline_infeasible",),
            "5ms": ("complete", "filled", "deadline_infeasible"),
            "100s": ("complete",),
        }[budget]
    )


@pytest.mark.parametrize("more", [(), ("--choices", "a,bc")])
def test_a_budget_that_is_impossible_exits_with_7(
    edge: Edge, model: str, more: tuple[str, ...]
) -> None:
    args = ("fill", "-m", model, "--budget", "0.001", "--on-infeasible", "error", "--json")
    ended = edge(*args, *more, "a[[MASK:9]]b")
    answer = json.loads(ended.out)
    if not more and ended.code == 0:  # nothing is refused before anything was measured
        assert answer["status"] == "deadline_infeasible"
        return
    assert ended.code == 7
    assert (answer["status"], ended.err.count("\n")) == ("error", 1)
    assert "give at least" in ended.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("no hole",), 2, ("the template has no hole", "[[MASK:12]]")),
        (("",), 2, ("no hole",)),
        (("a[[MASK:0]]",), 2, ("'[[MASK:0]]' at character 1 is no hole",)),
        (("[[MASK:x]]",), 2, ("is no hole", "--prefix")),
        (("[[MASK]]",), 2, ("is no hole",)),
        (("[[MASK:513]]",), 2, ("513 tokens", "context 512", "smaller")),
        (("[[MASK:999999999]]",), 2, ("999999999 tokens",)),
        (("[[MASK:9999999999]]",), 2, ("is no hole",)),
        ((b"\xff[[MASK:1]]",), 2, ("lone surrogate",)),
        (("[[MASK:1]]", "--prefix", "a"), 2, ("--prefix or --suffix is given",)),
        (("[[MASK:1]]", "--tokens", "4"), 2, ("--tokens is given",)),
        (("--prefix", "a", "--tokens", "0"), 2, ("--tokens", "x>=1")),
        (("[[MASK:1]]", "--choices", ""), 2, ("--choices", "yes,no")),
        (("[[MASK:1]]", "--choices", "a,,b"), 2, ("--choices",)),
        (("[[MASK:1]]", "--choices", "a,a"), 2, ("--choices", "different")),
        (("[[MASK:1]]", "--choices", "a,bcd"), 2, ("'bcd' has 3 tokens", "larger")),
        (("[[MASK:1]]", "--choices", "a,😀"), 2, ("can write",)),
        (("[[MASK:1]]", "--choices", "a", "--steps", "3"), 2, ("steps has no effect",)),
        (("[[MASK:1]]", "--sampler", "best"), 2, ("--sampler", "'best'")),
        (("-m", "missing.gguf", "[[MASK:1]]"), 5, ("(missing.gguf)",)),
    ],
)
def test_what_cannot_be_filled_is_one_line(
    edge: Edge, model: str, args: tuple[str | bytes, ...], code: int, words: tuple[str, ...]
) -> None:
    ended = edge("fill", *args, EDGE_MODEL=model)
    assert ended.out == ""
    assert ended.err.startswith("edge: error: ")
    assert ended.err.count("\n") == 1
    assert all(word in ended.err for word in words), ended.err
    assert ended.code == code


def test_a_model_that_attends_in_blocks_says_what_it_sees(edge: Edge, chat_model: Path) -> None:
    ended = edge("fill", "-m", str(chat_model), "--json", "a[[MASK:2]] and much more")
    assert ended.code == 4
    assert "tokens from the first hole on (attention block)" in ended.err
    assert json.loads(ended.out)["status"] == "error"
    short = edge("fill", "-m", str(chat_model), "--eos", "forbid", "a[[MASK:2]]b")
    assert (short.code, short.out[0], short.out[-2:]) == (0, "a", "b\n")


def test_the_default_denoiser_wants_its_canvas(edge: Edge) -> None:
    ended = edge("fill", "Two and two is[[MASK:2]].")
    assert ended.code == 2
    assert "the canvas of" in ended.err
    assert "-m" in ended.err


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"53\xff\n", "the template on stdin is not UTF-8: byte 0xff at 2"),
        (b"." * (MAX_STDIN_BYTES + 1), f"longer than {MAX_STDIN_BYTES} bytes"),
        (b"", "no hole"),
    ],
)
def test_bad_stdin_is_one_line(edge: Edge, stdin: bytes, words: str) -> None:
    ended = edge("fill", stdin=stdin)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert words in ended.err


def test_no_template_on_a_terminal_is_a_hint(edge_process: Edge) -> None:
    keyboard, screen = pty.openpty()
    try:
        ended = edge_process("fill", stdin=screen)
    finally:
        os.close(keyboard)
        os.close(screen)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "no template - try edge fill" in ended.err

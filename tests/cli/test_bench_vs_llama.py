"""``edge bench --vs-llama``, with a process that only speaks as llama.cpp's would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge import shapes
from edge.backends import llama_peer
from edge.formats.experts import Experts

Edge = Callable[..., Any]

FAKE = Path(__file__).parents[1] / "support/fake_llama.py"
QUICK = ("--vs-llama", "--repeats", "2", "--threads", "2")
SHAPE = ("--shape", "tiny", "--rows", "2,8", "--context", "0,9")


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = shapes.Shape("edge-qwen3", 64, 3, 4, 2, 16, 96, 100, 128)
    monkeypatch.setitem(shapes.SHAPES, "tiny", tiny)
    monkeypatch.setattr(llama_peer, "_PROGRAM", FAKE)
    monkeypatch.setattr(llama_peer, "find_spec", lambda _: object())


def test_a_mixture_that_llama_cpp_lacks_is_refused(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = shapes.Shape(
        "edge-bailingmoe2", 64, 2, 4, 2, 16, 96, 100, 128, experts=Experts(4, 2, 32)
    )
    monkeypatch.setitem(shapes.SHAPES, "mixed", mixed)
    done = edge("bench", "--shape", "mixed", "--rows", "2", "--context", "0", *QUICK)
    assert done.code == 4
    assert "no network like edge-bailingmoe2" in done.err


def test_fields_beside_ours(edge: Edge) -> None:
    done = edge("bench", *SHAPE, *QUICK, "--type", "int4", "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert report["llama_version"] == "0.0"
    assert report["llama_system"] == "CPU : FAKE = 1"
    assert report["llama_wait_policy"] == "default"
    assert [each["llama_ms"] for each in report["measurements"]] == [10, 40, 10, 40]
    for each in report["measurements"]:
        assert each["llama_ms_p95"] == each["llama_ms"]
        assert (each["llama_threads"], each["llama_type"]) == (2, "q4_0")
        assert each["llama_over_ours"] * each["step_ms"] > 0


def test_scaled_figures_of_a_thinner_shape(edge: Edge) -> None:
    report = json.loads(edge("bench", *SHAPE, *QUICK, "--layers", "1", "--json").out)
    assert [each["llama_ms"] for each in report["measurements"]] == [28, 118, 28, 118]
    assert report["measurements"][0]["llama_type"] == report["type"] == "q8_0"


def test_columns_of_the_table(edge: Edge) -> None:
    lines = edge("bench", *SHAPE, *QUICK).out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.lstrip().startswith("rows"))
    assert lines[header].split()[-2:] == ["llama", "ratio"]
    assert [line.split()[-2] for line in lines[header + 1 : header + 5]] == [
        *("10.0", "40.0"),
        *("10.0", "40.0"),
    ]
    assert len({len(line) for line in lines[header : header + 5]}) == 1
    assert any(
        line.startswith("llama: llama-cpp-python 0.0, q8_0, fastest with 2 threads, ")
        for line in lines
    )


def test_a_file_is_compared_without_a_prefix(
    edge: Edge, golden: Callable[[str], Path], converted: Callable[..., Path]
) -> None:
    done = edge("bench", "-m", str(converted(golden("llada"))), "--rows", "4", *QUICK, "--json")
    (measurement,) = json.loads(done.out)["measurements"]
    assert (measurement["context"], measurement["llama_ms"]) == (0, 20)


@pytest.mark.parametrize(
    ("options", "code", "problem"),
    [
        (("-m", "sudoku"), 4, "llama.cpp has no architecture 'edge-llama' ("),
        (("-m", "llada", "--context", "8"), 2, "llama.cpp caches nothing for 'llada' ("),
        (("-m", "llada", "--head-rows", "1"), 2, "llama.cpp evaluates the head of all rows for"),
        (("-m", "int4"), 4, "llama.cpp has no weights of type int4 ("),
        (("--shape", "tiny", "--layers", "4"), 2, "4 layers are asked for"),
    ],
)
def test_refusals(
    edge: Edge,
    golden: Callable[[str], Path],
    converted: Callable[..., Path],
    options: tuple[str, ...],
    code: int,
    problem: str,
) -> None:
    files = {"llada": converted(golden("llada")), "int4": converted(golden("llada"), "int4")}
    words = [str(files.get(word, word)) for word in options]
    done = edge("bench", *words, "--rows", "4", *QUICK)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"edge: error: {problem}")
    assert done.err.count("\n") == 1


def test_the_missing_extra_is_a_usage_error(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_peer, "find_spec", lambda _: None)
    done = edge("bench", *SHAPE, *QUICK)
    assert (done.code, done.out) == (2, "")
    problem = "edge: error: llama-cpp-python is not installed - pip install 'edge-denoise[llama]'\n"
    assert done.err == problem


def test_an_abort_there_is_one_line(edge: Edge) -> None:
    done = edge("bench", *SHAPE, *QUICK, FAKE_LLAMA="abort")
    assert (done.code, done.out) == (70, "")
    problem = "edge: error: llama.cpp ended with SIGABRT: ggml.c:1: GGML_ASSERT(sound) failed\n"
    assert done.err == problem

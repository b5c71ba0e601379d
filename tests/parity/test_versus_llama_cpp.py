"""``edge bench --vs-llama`` compares the same function: llama.cpp's own figures for our steps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge import bench, versus
from edge.backends.llama_process import Llama
from edge.bench import Step, plan_for
from edge.random_model import write_random_model
from edge.shapes import Shape

pytestmark = pytest.mark.llama

ROWS, CONTEXT, HEAD_ROWS = 8, 40, 5
FAMILIES = ("edge-qwen3", "edge-qwen2", "dream", "llada")
PLAN = plan_for(128, [ROWS], [CONTEXT], head_rows=HEAD_ROWS, repeats=2)


def tiny(architecture: str = "edge-qwen3") -> Shape:
    return Shape(architecture, 256, 3, 4, 2, 64, 384, 320, 128)


@pytest.fixture
def opened(
    llama_cpp: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[bench.Subject, Llama]]]:
    """``opened(shape, "f32")``: both engines with these weights, llama.cpp in this process."""

    def load(path: Path, *_: Any, by_part: bool) -> Llama:
        room = {"capacity": CONTEXT + ROWS, "rows": ROWS, "threads": 1}
        return Llama(llama_cpp, str(path), **room, by_part=by_part)

    monkeypatch.setattr(versus, "_loaded", load)
    with ExitStack() as stack:

        def open_both(shape: Shape, kind: str, **options: Any) -> tuple[bench.Subject, Any]:
            options |= {"threads": 1}
            ours = bench.opened_shape(shape, kind, PLAN, activations="f32", **options)
            theirs = versus.opened_shape(shape, kind, PLAN, **options)
            return stack.enter_context(ours), stack.enter_context(theirs).llama

        yield open_both


def run_theirs(llama: Llama, step: Step) -> NDArray[np.float64]:
    """Logits of the head rows, of which alone there are any."""
    llama.store(step.prefix.tolist())
    llama.step(step.request.ids.tolist(), step.head_rows, 1)
    logits = [llama.logits(row) for row in range(step.rows)]
    assert [row for row, each in enumerate(logits) if each] == [*range(step.head_rows)]
    return np.array(logits[: step.head_rows])


@pytest.mark.parametrize("architecture", FAMILIES)
def test_both_compute_the_same(opened: Callable[..., Any], architecture: str) -> None:
    """In f32 behind the same prefix, each row seeing all rows; its keys and values are f16."""
    subject, llama = opened(tiny(architecture), "f32")
    (step,) = bench.steps(subject, PLAN)
    theirs = run_theirs(llama, step)
    stats = subject.backend.forward(step.request)
    assert theirs.shape == (HEAD_ROWS, 320)
    assert theirs.argmax(axis=1).tolist() == stats.tokens.tolist()
    assert np.abs(theirs.max(axis=1) - stats.logits.top1_logit).max() < 1e-3
    assert np.abs(np.log(np.exp(theirs).sum(axis=1)) - stats.logits.log_z).max() < 1e-3


def test_a_step_leaves_what_is_stored(opened: Callable[..., Any]) -> None:
    """Steps repeat exactly, behind a prefix that is grown, changed or cut."""
    subject, llama = opened(tiny(), "q8_0")
    (step,) = bench.steps(subject, PLAN)
    first = run_theirs(llama, step)
    assert (run_theirs(llama, step) == first).all()
    llama.store([])
    assert (run_theirs(llama, replace(step, prefix=step.prefix[:0])) != first).any()
    llama.store([*step.prefix[:30].tolist(), 7, 8, 9])
    assert np.abs(run_theirs(llama, step) - first).max() < 1e-2  # stored in other chunks


def test_the_head_is_timed_where_layers_are_missing(opened: Callable[..., Any]) -> None:
    _, llama = opened(tiny(), "q4_0", layers=1)
    times = llama.step([1, 2, 3], 3, 1)
    assert 0 < times["head_ms"] < times["step_ms"]


def bench_json(*options: str | Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "edge", "bench", "--vs-llama", "--json", "--repeats", "2"]
    done = subprocess.run([*command, *options], capture_output=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.usefixtures("llama_cpp")
def test_the_command_with_a_shape() -> None:
    options = ("--shape", "qwen2.5-0.5b", "--layers", "1", "--type", "int8", "--rows", "2,4")
    report = bench_json(*options, "--context", "0,9", "--head-rows", "3")
    assert report["llama_version"]
    assert report["llama_wait_policy"] in ("default", "passive")
    assert len(report["measurements"]) == 4
    for each in report["measurements"]:
        assert (each["type"], each["llama_type"]) == ("int8", "q8_0")
        assert 0 < each["llama_ms"] <= each["llama_ms_p95"]
        assert each["llama_threads"] <= report["threads"]
        assert each["llama_over_ours"] > 0


@pytest.mark.usefixtures("llama_cpp")
def test_the_command_with_a_file(
    golden: Callable[[str], Path], converted: Callable[..., Path]
) -> None:
    """The very file, which llama.cpp evaluates whole; a step has no prefix."""
    report = bench_json("-m", converted(golden("llada"), "q8_0"), "--rows", "4,16")
    assert [(each["rows"], each["context"]) for each in report["measurements"]] == [(4, 0), (16, 0)]
    assert {each["llama_type"] for each in report["measurements"]} == {"q8_0"}
    assert report["generation"]["tokens"] > 0


@pytest.mark.usefixtures("llama_cpp")
def test_a_file_that_it_cannot_load_is_one_line(tmp_path: Path) -> None:
    """It wants a tokenizer."""
    write_random_model(tmp_path / "random.gguf", tiny("llada"), "f32")
    command = [sys.executable, "-m", "edge", "bench", "--vs-llama", "--rows", "4", "-m"]
    command.append(str(tmp_path / "random.gguf"))
    done = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.startswith(b"edge: error: llama.cpp: it cannot load the file: ")
    assert b"tokenizer" in done.stderr
    assert done.stderr.count(b"\n") == 1

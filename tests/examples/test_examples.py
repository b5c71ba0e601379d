"""Every example runs as its own header says and prints what it promises."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SOLUTION = "415692378892173456376485219649837125183524697257916843934761582528349761761258934"


@pytest.fixture(autouse=True)
def _a_cache_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))


def run(*command: str | Path) -> str:
    """Run a command with this environment's scripts first on the path; return its stdout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate_shows_that_more_steps_help() -> None:
    lines = run(sys.executable, EXAMPLES / "01_generate.py").splitlines()
    assert lines[0].endswith("not solved")
    assert lines[-1] == f" 47 steps: {SOLUTION} solved"


def test_watching_shows_every_step_and_the_verdict() -> None:
    output = run(sys.executable, EXAMPLES / "02_watch_refinement.py")
    assert [line for line in output.splitlines() if line.startswith("step")] == [
        f"step {step}, {cells} cells open" for step, cells in enumerate((39, 31, 23, 15, 7, 0), 1)
    ]
    assert "(" in output
    assert output.endswith("VERIFIED\n")


def test_a_budget_decides_the_steps() -> None:
    *answers, refusal = run(sys.executable, EXAMPLES / "03_latency_budget.py").splitlines()
    assert len(answers) == 3
    assert ": solved in " in answers[-1]
    assert answers[-1].endswith("47 steps, 0 cells forced, complete")
    assert refusal.startswith("refused: 0.01 ms, at least ")


def test_an_app_shares_refuses_and_cancels() -> None:
    lines = run(sys.executable, EXAMPLES / "04_embed_in_app.py").splitlines()
    assert lines[:3] == [f"complete: {SOLUTION}"] * 3
    assert lines[3] == "refused: the puzzle has no solution: row 1 holds 5 twice"
    assert lines[4].startswith("cancelled: ")


def test_converting_ends_with_the_answer(tmp_path: Path) -> None:
    out = tmp_path / "sudoku.gguf"
    output = run("sh", EXAMPLES / "05_convert.sh", ROOT / "tests/golden/sudoku", out)
    assert output.endswith(f"{SOLUTION}\n")
    assert out.exists()
    assert out.with_suffix(".gguf.json").exists()


@pytest.mark.slow
def test_the_errors_of_types_are_printed() -> None:
    lines = run(sys.executable, EXAMPLES / "bench/type_errors.py").splitlines()
    errors = {line.split("  ")[0].strip(): float(line.split()[-2]) for line in lines[1:]}
    assert errors["int4 g128 with minima"] < errors["int4 g128"]
    assert errors["int8 row"] < 2 < errors["q4_0"]


def test_the_errors_of_formats_of_keys_and_values_are_printed() -> None:
    lines = run(sys.executable, EXAMPLES / "bench/kv_errors.py", "--count", "10").splitlines()
    assert lines[0].startswith("10 canvases, ")
    divergence = {line.split()[0]: float(line.split()[1]) for line in lines[-2:]}
    assert 0 < divergence["bf16"] < divergence["int8"] < 0.05


def test_later_turns_of_a_conversation_store_what_is_new() -> None:
    script = (EXAMPLES / "bench/chat_turns.py", "--shape", "qwen2.5-0.5b", "--layers", "1")
    turns = json.loads(run(sys.executable, *script, "--turns", "3", "--tokens", "16", "--json"))
    prompts = [turn["prompt"] for turn in turns["turns"]]
    new = [turn["new"] for turn in turns["turns"]]
    assert new[0] == prompts[0]
    for turn in (1, 2):  # up to a block: the answer's that was stored, the prompt's that was not
        assert abs(prompts[turn] - prompts[turn - 1] - new[turn]) < 16


def test_the_picture_is_what_its_command_draws(tmp_path: Path) -> None:
    run(sys.executable, EXAMPLES / "bench/denoise_picture.py", tmp_path / "denoise.svg")
    drawn = (tmp_path / "denoise.svg").read_text(encoding="utf-8")
    assert (
        drawn.count("step")
        == (EXAMPLES / "denoise.svg").read_text(encoding="utf-8").count("step")
        >= 4
    )


@pytest.mark.slow
def test_the_gain_of_a_second_thread_is_measured() -> None:
    options = ("--pairs", "1", "--seconds", "0.01", "--subjects", "sudoku", "--markdown")
    rows = run(sys.executable, EXAMPLES / "bench/threads.py", *options).splitlines()[-2:]
    assert rows[0].startswith("| sudoku, idle, now | ")
    assert rows[1].startswith("| sudoku, a busy process per core, now | ")


def test_the_share_of_the_peak_is_told_by_type_and_rows() -> None:
    options = ("--shape", "qwen2.5-0.5b", "--layers", "1", "--repeats", "2", "--rows", "8")
    lines = run(sys.executable, EXAMPLES / "bench/gemm.py", *options, "--type", "int4").splitlines()
    assert "int8 peak" in lines[0]
    assert re.fullmatch(r"int4 +\d+% / \d+% \(\d+%\)( of \d+%)?", lines[-1].strip())


def test_time_by_rows_and_by_context_is_measured_and_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "scaling.png"
    script = (EXAMPLES / "bench/scaling.py", "--layers", "1", "--repeats", "1", "--plot", picture)
    lists = ("--rows", "2,4,8", "--contexts", "0,8,24", "--fixed-context", "5", "--fixed-rows", "3")
    report = json.loads(run(sys.executable, *script, *lists, "--json"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert (report["type"], report["measured_layers"], report["num_layers"]) == ("int4", 1, 28)
    by_row, by_key = report["series"]
    assert [(each["rows"], each["context"]) for each in by_row["points"]] == [
        (2, 5),
        (4, 5),
        (8, 5),
    ]
    assert [each["context"] for each in by_key["points"]] == by_key["xs"] == [0, 8, 24]
    assert {each["rows"] for each in by_key["points"]} == {3}
    for series in (by_row, by_key):
        times, line = [each["step_ms"] for each in series["points"]], series["line"]
        on_line = [line["at_zero_ms"] + line["per_unit_ms"] * x for x in series["xs"]]
        assert sum(times) == pytest.approx(sum(on_line))
        off = max(abs(time / there - 1) for time, there in zip(times, on_line, strict=True))
        assert line["deviation"] == pytest.approx(off)
        assert line["r_squared"] <= 1
    sizes = report["bytes"]
    assert sizes["keys_and_values"] > 0
    assert sizes["weights"] + sizes["keys_and_values"] + sizes["rest"] == sizes["peak"]


@pytest.mark.parametrize(
    "name",
    ["01_generate.py", "02_watch_refinement.py", "03_latency_budget.py", "04_embed_in_app.py"],
)
def test_examples_stay_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.slow
def test_the_budget_bench_reports_every_budget_and_half_of_a_full_run() -> None:
    script = EXAMPLES / "bench" / "sudoku_budget.py"
    report = json.loads(run(sys.executable, script, "--count", "4", "--budgets", "3", "--json"))
    budgets = [point["setting"]["budget_ms"] for point in report["points"]]
    assert budgets[-1] is None
    assert budgets[:-1] == sorted(budgets[:-1])
    assert max(budgets[:-1]) / 2 in budgets
    assert report["points"][-1]["quality"] == 1
    assert 0 <= report["half_time_share"] <= 1


def test_the_conversion_bench_tells_what_it_took() -> None:
    script = (EXAMPLES / "bench/conversion.py", "--gigabytes", "0.002")
    said = run(sys.executable, *script, "--options", "--type int8 --method nearest").splitlines()
    assert "int8" in said[0]
    assert re.fullmatch(r"0.00 GB, \d+ layers: \d+ s, peak anonymous memory [1-9]\d+ MiB", said[-1])

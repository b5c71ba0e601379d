"""``--budget`` and ``edge calibrate`` as a user meets them; nothing here depends on speed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge import profile
from edge.cli.prompt import EXAMPLE

Edge = Callable[..., Any]
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


@pytest.fixture(autouse=True)
def _an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setattr(profile, "folder", lambda: folder / "edge-denoise/profiles")
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(folder))  # where processes look


def figures(ended: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ended.out)
    return answer


@pytest.mark.parametrize(
    ("text", "budget_ms"),
    [("100s", 1e5), ("90000ms", 9e4), ("80000", 8e4), ("1.5e2", None), ("99.5 s", 99_500)],
)
def test_a_budget_is_ms_or_has_its_unit(edge: Edge, text: str, budget_ms: float | None) -> None:
    ended = edge("run", "--json", "--budget", text, EXAMPLE)
    if budget_ms is None:
        assert ended.code == 2
        return
    answer = figures(ended)
    assert (answer["budget_ms"], answer["status"]) == (budget_ms, "complete")
    assert answer["text"] == SOLUTION
    assert answer["overshoot_ms"] == pytest.approx(answer["elapsed_ms"] - budget_ms)


@pytest.mark.parametrize(
    "text", ["", "0", "0ms", "-5", "5m", "ms", "1e9", "nan", "inf", "1,5s", "5 5"]
)
def test_what_is_no_time_is_one_line(edge: Edge, text: str) -> None:
    ended = edge("run", "--budget", text, EXAMPLE)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "'--budget'" in ended.err
    assert "write 800ms, 2s or a number of ms" in ended.err


@pytest.mark.parametrize("option", ["--on-tight", "--on-infeasible"])
def test_policies_are_named(edge: Edge, option: str) -> None:
    ended = edge("run", option, "panic", EXAMPLE)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert option in ended.err


def test_one_millisecond_still_gives_the_least_answer(edge_process: Edge) -> None:
    ended = edge_process("run", "--json", "--budget", "1ms", EXAMPLE)
    answer = figures(ended)
    assert answer["status"] == "deadline_infeasible"
    assert (answer["nfe"], answer["steps"], len(answer["text"])) == (1, 1, 81)
    assert answer["min_budget_ms"] > 1
    assert answer["overshoot_ms"] > 0
    assert ended.code in (0, 8)  # as the puzzle's verdict says


def test_or_it_is_an_error_that_names_the_smallest_budget(edge_process: Edge) -> None:
    ended = edge_process("run", "--budget", "0.5", "--on-infeasible", "error", EXAMPLE)
    assert (ended.code, ended.out) == (7, "")
    assert re.fullmatch(
        r"edge: error: a budget of 0\.5 ms is too short .* - give at least \d+ ms, .*\n", ended.err
    )


def test_with_json_an_error_is_an_object_too(edge: Edge) -> None:
    args = ("--json", "--budget", "0.1", "--on-infeasible", "error")
    ended = edge("run", *args, EXAMPLE)
    answer = figures(ended)
    assert (ended.code, answer["status"], answer["complete"]) == (7, "error", False)
    assert ended.err == f"edge: error: {answer['error']}\n"


def test_the_same_after_a_calibration(edge_process: Edge) -> None:
    assert edge_process("calibrate").code == 0
    ended = edge_process("run", "--budget", "0.01", "--on-infeasible", "error", EXAMPLE)
    assert ended.code == 7
    answer = figures(edge_process("run", "--json", "--budget", "100s", EXAMPLE))
    assert answer["cost_source"] == "calibration"
    assert answer["predicted_ms"] > 0
    assert answer["status"] == "complete"


def test_the_stats_line_tells_time_and_force(edge: Edge) -> None:
    line = edge("run", "--stats", "--budget", "100s", EXAMPLE).err.splitlines()[0]
    assert re.match(r"51 steps, 51 forwards, 51 tokens, \d+ of 100000 ms \(\d+ ms left\), ", line)
    assert ", 0 tokens forced below the threshold, " in line
    line = edge("run", "--stats", "--budget", "0.1", EXAMPLE).err.splitlines()[0]
    assert re.search(r"\d+ of 0 ms \(\d+ ms over\)", line)
    assert re.search(r", deadline_infeasible: at least [\d.]+ ms are needed, ", line)


def test_json_names_every_figure_of_a_budget(edge: Edge) -> None:
    answer = figures(edge("run", "--json", "--budget", "100s", "--steps", "9", EXAMPLE))
    assert answer["steps"] == 9
    assert answer["steps_per_block"] == [9]
    assert answer["sampler_parameters"] == {"rank": "confidence"}
    assert answer["tokens_per_step"] == pytest.approx(51 / 9)
    for name in ("ttfd_ms", "t_first_block_ms", "head_ms", "step_ms_p50", "step_ms_p99", "cost_u"):
        assert answer[name] > 0
    assert answer["store_ms"] == 0
    assert answer["min_confidence"] <= answer["mean_confidence"]


def test_calibrate_prints_what_it_stores(edge: Edge) -> None:
    answer = figures(edge("calibrate", "--json", "--threads", "1"))
    stored = json.loads(Path(answer["profile"]).read_text())
    assert stored["costs"] == {name: answer[name] for name in stored["costs"]}
    assert answer["source"] == "calibration"
    assert stored["identity"]["threads"] == answer["threads"] == 1
    table = edge("calibrate", "--threads", "1", "--activations", "f32").out
    stored = json.loads(Path(re.search(r"^profile +(.*)$", table, re.MULTILINE)[1]).read_text())
    assert stored["identity"]["activations"] == "f32"
    assert "ms of a forward without its head, by active rows" in table


def test_calibrate_says_where_it_cannot_write(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    ended = edge("calibrate")
    assert ended.code == 70
    assert ended.err.count("\n") == 1
    assert "cache" in ended.err

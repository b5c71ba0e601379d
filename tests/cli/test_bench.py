"""``edge bench``: what it prints, and what it refuses. No assertion depends on a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from edge import bench, peak_record, shapes
from edge.denoisers import EMBEDDED
from edge.formats.experts import Experts

Edge = Callable[..., Any]

PARTS = ("gemm_ms", "attention_ms", "head_ms", "quantize_ms", "other_ms")
FIELDS = {
    *("rows", "context", "head_rows", "type", "threads", "isa", "step_ms", "step_ms_p95", *PARTS),
    *(
        "int8_peak_gops",
        "bf16_peak_gops",
        "float_peak_gops",
        "gemm_peak_share",
        "attention_peak_share",
        "step_over_peak_time",
    ),
    *("peak_rss_bytes", "experts"),
}
QUICK = ("--repeats", "2", "--threads", "1")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    shape = shapes.Shape("edge-qwen3", 64, 3, 4, 2, 16, 96, 100, 128)
    monkeypatch.setitem(shapes.SHAPES, "tiny", shape)
    return "tiny"


def test_a_mixture_tells_what_its_experts_did(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    experts = Experts(16, 2, 32, 64, 1, "sigmoid", num_groups=4, num_used_groups=2)
    shape = shapes.Shape("edge-bailingmoe2", 64, 4, 4, 2, 16, 96, 100, 128, experts=experts)
    monkeypatch.setitem(shapes.SHAPES, "mixed", shape)
    options = ("--shape", "mixed", "--rows", "8", "--context", "0", "--layers", "2", *QUICK)
    done = edge("bench", *options, "--json")
    (measurement,) = json.loads(done.out)["measurements"]
    found = measurement["experts"]
    assert set(found) == {"touched", "rows_per_expert", "read_gbps", "bound_share"}
    assert 2 <= found["touched"] <= 16
    assert found["touched"] * found["rows_per_expert"] == pytest.approx(8 * 2)
    assert found["read_gbps"] > 0
    assert found["bound_share"] > 0
    table = edge("bench", *options).out
    assert "rows each" in table
    assert "of bound" in table


def assert_consistent(measurement: dict[str, Any]) -> None:
    assert set(measurement) == FIELDS
    assert sum(measurement[part] for part in PARTS) == pytest.approx(measurement["step_ms"])
    assert all(measurement[part] >= 0 for part in PARTS)
    assert 0 < measurement["step_ms"] <= measurement["step_ms_p95"]
    assert 0 < measurement["gemm_peak_share"] < 1.5
    assert 0 < measurement["attention_peak_share"] < 1.5
    assert measurement["step_over_peak_time"] > 0.5
    assert measurement["int8_peak_gops"] > 0
    assert measurement["bf16_peak_gops"] > 0
    assert measurement["float_peak_gops"] > 0


def test_the_embedded_denoiser_in_json(edge: Edge) -> None:
    done = edge("bench", "--rows", "8,1", "--context", "16,0", *QUICK, "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert report["schema"] == 1
    assert (report["name"], report["type"], report["threads"]) == ("sudoku", "q8_0", 1)
    assert report["sha256"] == EMBEDDED["sudoku"].sha256
    assert (report["num_layers"], report["measured_layers"]) == (6, 6)
    order = [(each["context"], each["rows"]) for each in report["measurements"]]
    assert order == [(0, 8), (0, 1), (16, 8), (16, 1)]
    for measurement in report["measurements"]:
        assert_consistent(measurement)
        assert measurement["isa"] == report["isa"]
        assert measurement["quantize_ms"] > 0
    generation = report["generation"]
    assert generation["nfe"] * generation["tokens_per_forward"] == generation["tokens"] > 0
    assert report["peak_rss_bytes"] >= report["measurements"][-1]["peak_rss_bytes"] > 0


def test_float_activations_are_not_quantized(edge: Edge) -> None:
    options = ("--rows", "4", "--activations", "f32", "--head-rows", "1", *QUICK, "--json")
    (measurement,) = json.loads(edge("bench", *options).out)["measurements"]
    assert measurement["quantize_ms"] == 0
    assert measurement["head_rows"] == 1


def test_the_format_of_keys_and_values_is_told(edge: Edge) -> None:
    done = edge("bench", "--rows", "4", "--context", "0", "--kv", "int8", *QUICK, "--json")
    assert json.loads(done.out)["kv"] == "int8"


def test_a_table_for_people(edge: Edge) -> None:
    done = edge("bench", "-m", "sudoku", "--rows", "1,32", *QUICK)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"sudoku, q8_0, sha256 {EMBEDDED['sudoku'].sha256[:12]}; ")
    header = next(i for i, line in enumerate(lines) if line.lstrip().startswith("rows"))
    assert [line.split()[:2] for line in lines[header + 1 : header + 3]] == [
        ["1", "0"],
        ["32", "0"],
    ]
    assert len({len(line) for line in lines[header : header + 3]}) == 1
    assert any(line.startswith("a short answer: 47 tokens") for line in lines)


def test_a_run_on_a_machine_that_could_do_better_is_void(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--rows", "1", "--context", "0", *QUICK)
    assert "void" not in edge("bench", *options).out
    monkeypatch.setattr(peak_record, "best_peak", lambda *_: 1e6)
    done = edge("bench", *options)
    assert re.search(
        r"^void: the int8 peak of this run is \d+% of .*, 1000000 Gop/s", done.out, re.M
    )
    assert json.loads(edge("bench", *options, "--json").out)["int8_peak_best_gops"] == 1e6


def test_a_pipe_gets_json_from_a_process(edge_process: Edge) -> None:
    done = edge_process("bench", "--rows", "1", *QUICK, "--json")
    assert (done.code, done.err) == (0, "")
    assert_consistent(json.loads(done.out)["measurements"][0])


def test_random_weights_of_a_shape(edge: Edge, tiny: str) -> None:
    options = ("--shape", tiny, "--type", "q4_0", "--rows", "2,8", "--context", "0,9", *QUICK)
    report = json.loads(edge("bench", *options, "--json").out)
    assert (report["name"], report["type"], report["random_weights"]) == (tiny, "q4_0", True)
    assert report["path"] is report["sha256"] is report["generation"] is None
    assert len(report["measurements"]) == 4
    for measurement in report["measurements"]:
        assert_consistent(measurement)
        assert measurement["type"] == "q4_0"
    assert "tiny, q4_0, random weights; " in edge("bench", *options).out


def test_a_thinner_shape_says_so(edge: Edge, tiny: str) -> None:
    options = ("--shape", tiny, "--layers", "1", "--rows", "2", *QUICK)
    report = json.loads(edge("bench", *options, "--json").out)
    assert (report["num_layers"], report["measured_layers"]) == (3, 1)
    assert report["type"] == "q8_0"
    assert "1 layers measured, scaled to 3" in edge("bench", *options).out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--shape", "nonesuch"), "'nonesuch' is unknown; known: qwen2.5-0.5b, qwen3-0.6b, "),
        (("--shape",), "no name is given; known: qwen2.5-0.5b, qwen3-0.6b, "),
        (("--shape", "--json"), "no name is given; known: "),
        (("-m", "sudoku", "--shape", "llada-8b"), "--model and --shape exclude each other"),
        (("-m", "sudoku", "--type", "q4_0"), "--type goes with --shape only"),
        (("--layers", "2"), "--layers goes with --shape only"),
        (("--rows", "0"), "'0' is not a list of whole numbers from 1 on"),
        (("--rows", "1,,8"), "'1,,8' is not a list"),
        (("--rows", ""), "'' is not a list"),
        (("--rows", "eight"), "'eight' is not a list"),
        (("--rows", "-1"), "'-1' is not a list"),
        (("--rows", "9" * 5000), "is not a list"),
        (("--shape", "sdar-8b", "--threads", "1025"), "threads is 1025"),
        (("--context", "0;8"), "'0;8' is not a list of whole numbers from 0 on"),
        (("--rows", "82"), "82 rows behind a context of 0 exceed the model's 81 positions"),
        (("--rows", "1", "--context", "81"), "1 rows behind a context of 81 exceed"),
        (("--repeats", "0"), "'--repeats'"),
        (("--shape", "qwen3-0.6b", "--layers", "29"), "29 layers are asked for"),
    ],
)
def test_usage_errors(edge: Edge, options: tuple[str, ...], problem: str) -> None:
    done = edge("bench", *options)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err
    assert done.err.count("\n") == 1


def test_what_does_not_fit_exits_with_6(
    edge: Edge, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str) -> Any:
        return type("Usage", (), {"free": 1000})

    monkeypatch.setattr(bench.shutil, "disk_usage", full)
    done = edge("bench", "--shape", tiny)
    assert (done.code, done.out) == (6, "")
    assert done.err.startswith("edge: error: the random weights need 0.0 GiB of disk, 0.0 GiB are")
    assert done.err.count("\n") == 1


def test_a_missing_file_is_not_found(edge: Edge) -> None:
    assert edge("bench", "-m", "nowhere.gguf").code == 5

"""The command: streams, exit codes, one-line errors, and what it must not overwrite."""

from __future__ import annotations

import errno
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import convert.outputs
import convert.pipeline
import edge

Make = Callable[..., Any]  # conftest.folder
Golden = Callable[[str], Path]
Run = Callable[..., Any]  # conftest.edge_convert

COMMAND = [sys.executable, "-m", "convert"]


def test_a_conversion_says_little_and_only_on_stderr(
    golden: Golden, edge_convert: Run, tmp_path: Path
) -> None:
    done = edge_convert(golden("llada"), tmp_path / "out.gguf", "--type", "q4_0")
    assert (done.code, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        f"wrote {tmp_path / 'out.gguf'}: llada, q4_0, 0.11 MiB, 6.27 bits per weight "
        "(source 0.56 MiB)",
        "kept as f16: blk.{0-2}.ffn_down.weight (groups of 32 do not divide 112 columns)",
    ]


def test_layers_may_keep_bf16_activations(
    golden: Golden, edge_convert: Run, tmp_path: Path
) -> None:
    source, out = golden("llada"), tmp_path / "out.gguf"
    patterns = ("--bf16-activations", "*.attn_q.weight", "--bf16-activations", "output.weight")
    done = edge_convert(source, out, *patterns)
    assert done.code == 0
    assert done.stderr.splitlines()[-1] == (
        "bfloat16 activations: blk.{0-2}.attn_q.weight, output.weight"
    )
    again = edge_convert(source, out, *patterns, "--force", "--json", "--quiet")
    names = [*(f"blk.{layer}.attn_q.weight" for layer in range(3)), "output.weight"]
    assert json.loads(again.stdout)["bf16_activations"] == names
    assert edge.inspect(out).bf16_activations == tuple(names)


@pytest.mark.parametrize(
    ("type", "pattern", "hint"),
    [
        ("q8_0", "*.attn_z.weight", "names are like output.weight"),
        ("q8_0", "*.ffn_down.weight", "names are like output.weight"),  # kept as f16
        ("q8_0", "token_embd.weight", "names are like output.weight"),  # looked up, not multiplied
        ("f32", "*", "the type quantizes nothing"),
    ],
)
def test_bf16_activations_of_nothing_are_refused(
    golden: Golden, edge_convert: Run, tmp_path: Path, type: str, pattern: str, hint: str
) -> None:
    options = ("--type", type, "--bf16-activations", pattern)
    done = edge_convert(golden("llada"), tmp_path / "out.gguf", *options)
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert repr(pattern) in done.stderr
    assert hint in done.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_quiet_is_silent(golden: Golden, edge_convert: Run, tmp_path: Path) -> None:
    done = edge_convert(golden("llada"), tmp_path / "out.gguf", "--quiet")
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


def test_json_is_one_object(golden: Golden, edge_convert: Run, tmp_path: Path) -> None:
    done = edge_convert(golden("llada"), tmp_path / "out.gguf", "--json", "--quiet")
    report = json.loads(done.stdout)
    assert report["schema"] == 1
    assert report["type"] == "q8_0"
    assert report["activations"] is None
    assert report["size_bytes"] == (tmp_path / "out.gguf").stat().st_size


def test_a_dry_run_prints_the_plan(golden: Golden, edge_convert: Run, tmp_path: Path) -> None:
    done = edge_convert(golden("llada"), tmp_path / "out.gguf", "--dry-run")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["tensor", "type", "shape", "bytes", "source"]
    wanted = ["token_embd.weight", "q8_0", "256x64", "17408", "model.transformer.wte.weight"]
    assert lines[1] == wanted
    assert lines[-1] == ["total", "q8_0", "146880", "177536"]
    assert len(lines) == 1 + 30 + 1
    assert not (tmp_path / "out.gguf").exists()


def test_every_option_has_a_variable(
    golden: Golden, edge_convert: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.gguf").write_bytes(b"old")
    variables = {
        "TYPE": "f16",
        "SET": "diffusion.block_length=8 diffusion.threshold=0.5",
        "MASK_TOKEN_ID": "7",
        "REPORT": str(tmp_path / "report.json"),
        "FORCE": "1",
        "JSON": "1",
        "QUIET": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"EDGE_CONVERT_{name}", value)
    done = edge_convert(golden("llada"), tmp_path / "out.gguf")
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(done.stdout) == report
    assert done.stderr == ""
    assert report["type"] == "f16"
    assert report["keys"]["tokenizer.ggml.mask_token_id"] == 7
    assert report["keys"]["diffusion.block_length"] == 8
    assert report["keys"]["diffusion.threshold"] == 0.5
    monkeypatch.setenv("EDGE_CONVERT_DRY_RUN", "1")
    assert json.loads(edge_convert(tmp_path / "llada", tmp_path / "x").stdout)["dry_run"]


def test_settings_may_hold_equals_signs(golden: Golden, edge_convert: Run, tmp_path: Path) -> None:
    args = ["--set", "general.name=a=b", "--set", "diffusion.threshold=1", "--json"]
    report = json.loads(edge_convert(golden("llada"), tmp_path / "out.gguf", *args).stdout)
    assert report["keys"]["diffusion.threshold"] == 1
    assert report["keys"]["general.name"] == "a=b"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--type", "q5_0"], "q5_0"),
        (["--set", "diffusion.threshold"], "is not KEY=VALUE"),
        (["--set", "edge.task=a", "--set", "edge.task=b"], "is set twice"),
        (["--set", "nonsense=1"], "'nonsense' cannot be set - keys that can: diffusion.noise"),
        (["--mask-token-id", "256"], "outside the embedding's 256 rows"),
        (["--mask-token-id", "x"], "not a valid integer"),
        (["--bogus"], "--bogus"),
    ],
)
def test_usage_errors(
    golden: Golden, edge_convert: Run, tmp_path: Path, args: list[str], reason: str
) -> None:
    done = edge_convert(golden("llada"), tmp_path / "out.gguf", *args)
    assert done.code == 2
    assert reason in done.error
    assert not (tmp_path / "out.gguf").exists()


def test_an_existing_output_needs_force(golden: Golden, edge_convert: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    done = edge_convert(golden("llada"), out)
    assert (done.code, out.read_bytes()) == (2, b"old")
    assert done.error == (
        f"edge-convert: error: the output exists ({out}) - use --force to replace it"
    )
    assert edge_convert(golden("sudoku"), out, "--force").code == 0
    assert out.read_bytes()[:4] == b"GGUF"


def test_an_existing_report_needs_force(golden: Golden, edge_convert: Run, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_bytes(b"old")
    done = edge_convert(golden("llada"), tmp_path / "out.gguf", "--report", report)
    assert (done.code, report.read_bytes()) == (2, b"old")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "new.gguf", "sub/../config.json"])
@pytest.mark.parametrize("option", ["OUT", "--report"])
def test_nothing_is_written_into_the_source(
    golden: Golden, edge_convert: Run, tmp_path: Path, name: str, option: str
) -> None:
    source = golden("llada")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    (tmp_path / "link").symlink_to(source)
    target = tmp_path / "link" / name
    args = [target] if option == "OUT" else [tmp_path / "out.gguf", "--report", target]
    done = edge_convert(source, *args, "--force")
    assert done.code == 2
    assert "lies in the source" in done.error
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_output_and_report_must_differ(golden: Golden, edge_convert: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = edge_convert(golden("llada"), out, "--report", tmp_path / "." / "out.gguf")
    assert done.code == 2
    assert "one file" in done.error


@pytest.mark.parametrize("target", ["missing/out.gguf", "", "pipe"])
def test_impossible_outputs(golden: Golden, edge_convert: Run, tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = golden("llada")
    done = edge_convert(source, tmp_path / target, "--force")
    assert done.code == 2
    assert "there is no such folder" in done.error or "no regular file" in done.error


def test_a_full_disk_is_noticed_before_writing(
    golden: Golden, edge_convert: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(convert.outputs.shutil, "disk_usage", lambda _: usage)
    done = edge_convert(golden("llada"), tmp_path / "out.gguf")
    assert done.code == 70
    assert f"{os.strerror(errno.ENOSPC).lower()}: 1 MiB needed, 0 MiB free" in done.error
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("break_it", "code", "what"),
    [
        (lambda made: made.config.update(alibi=True), 4, "alibi is true"),
        (lambda made: made.config.update(architectures=["X"]), 4, "known architectures: A2DQwen2"),
        (lambda made: made.config.update(n_heads=0), 3, "n_heads is 0"),
        (lambda made: made.config.pop("mask_token_id"), 3, "give it with --mask-token-id N"),
        (lambda made: made.tensors.popitem(), 3, "tensors missing: "),
    ],
)
def test_model_errors_are_one_line_with_the_file(
    folder: Make, edge_convert: Run, tmp_path: Path, break_it: Any, code: int, what: str
) -> None:
    made = folder()
    break_it(made)
    done = edge_convert(made.write(), tmp_path / "out.gguf")
    assert done.code == code
    assert what in done.error
    assert f"({made.path}" in done.error
    assert " - " in done.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_a_missing_folder(edge_convert: Run, tmp_path: Path) -> None:
    done = edge_convert(tmp_path / "nowhere", tmp_path / "out.gguf")
    assert done.code == 5
    assert "no such checkpoint folder" in done.error


def test_an_unexpected_error_is_one_line_and_a_traceback_on_request(
    golden: Golden, edge_convert: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(convert.pipeline, "build_spec", broken)
    done = edge_convert(golden("llada"), tmp_path / "out.gguf")
    assert done.code == 70
    assert "ZeroDivisionError: surprise" in done.error
    done = edge_convert(golden("sudoku"), tmp_path / "out.gguf", "-v")
    assert done.code == 70
    assert "Traceback" in done.stderr


def test_errors_of_a_real_process(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"\x80\x02.")
    command = [*COMMAND, tmp_path / "w.pt", tmp_path / "out.gguf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        "edge-convert: error: w.pt is a pickled checkpoint, which can run code when it is opened "
        f"({tmp_path / 'w.pt'}) - save the checkpoint as safetensors (save_pretrained does) and "
        "convert that\n"
    )


def test_help_shows_examples_and_needs_no_weights(edge_convert: Run) -> None:
    done = edge_convert("--help")
    assert done.code == 0
    assert "--dry-run" in done.stdout
    assert "Examples:" in done.stdout


def test_importing_convert_is_cheap() -> None:
    code = "import sys, convert; print(*sorted({'numpy', 'gguf', 'safetensors', 'rich', "
    code += "'tokenizers', 'click'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_closed_pipe_is_silent(golden: Golden, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, golden("llada"), tmp_path / "out.gguf", "--dry-run", "--quiet"]
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_bar_is_drawn_on_a_terminal_only(golden: Golden, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [*COMMAND, golden("sudoku"), tmp_path / "out.gguf"]
    with os.fdopen(slave, "wb") as stderr:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=True,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        )
    drawn = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.stdout == b""
    assert "verify" in drawn
    assert "wrote" in drawn

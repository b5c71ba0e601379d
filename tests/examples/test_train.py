"""The trainer as a user runs it: it learns, stops and goes on, and the runtime has what it learned.

Needs PyTorch; `pytest -m train`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from safetensors.numpy import load_file

import edge
from convert import convert

pytestmark = pytest.mark.train
TRAIN = Path(__file__).parents[2] / "examples/train/train.py"
TINY = ("--hidden-size", "64", "--feed-forward-size", "128", "--batch", "64", "--warmup", "20")
LOOPED = ("--num-layers", "4", "--num-own-layers", "2")


def command(task: str, folder: Path, *options: str) -> list[str]:
    return [sys.executable, os.fspath(TRAIN), task, os.fspath(folder), *options]


def train(task: str, folder: Path, *options: str) -> list[dict[str, Any]]:
    """Train to the end; return the evaluations."""
    done = subprocess.run(command(task, folder, *options), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def weights(folder: Path) -> bytes:
    return (folder / "model/model.safetensors").read_bytes()


def palindromes(count: int) -> list[tuple[str, str]]:
    """Prompts with one of each pair of letters missing, or neither, and their answers."""
    random, pairs = Random(1), []
    for _ in range(count):
        half = "".join(random.choices("abcdefgh", k=8))
        answer = half + half[::-1]
        holes = {random.choice((n, 15 - n)) for n in range(8) if random.random() < 0.8}
        prompt = "".join("." if n in holes else answer[n] for n in range(16))
        pairs.append((prompt, answer))
    return pairs


def test_the_loss_falls_and_the_runtime_solves_what_was_learned(tmp_path: Path) -> None:
    schedule = ("--steps", "400", "--cooldown", "100", "--evaluate-every", "100")
    reports = train("mirror", tmp_path, *TINY, *LOOPED, *schedule)
    losses = [report["loss"] for report in reports]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.1 * losses[0]
    assert reports[-1]["all"]["solved"] == 1
    assert reports[-1]["pairs"] > 400
    for type_name in ("f32", "int8"):
        file = tmp_path / f"{type_name}.gguf"
        convert(tmp_path / "model", file, type_name)
        with edge.load(file) as model:
            for prompt, answer in palindromes(50):
                assert model.generate(prompt).text == answer


def wait_for(file: Path) -> None:
    for _ in range(600):
        if file.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{file} was not written")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_ends_with_the_same_weights(number: signal.Signals, tmp_path: Path) -> None:
    options = (*TINY, *LOOPED, "--steps", "60", "--cooldown", "20", "--evaluate-every", "20")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train("mirror", whole, *options)
    with subprocess.Popen(command("mirror", stopped, *options)) as process:
        wait_for(stopped / "model/tokenizer.json")
        process.send_signal(number)
    assert process.returncode != 0
    reports = train("mirror", stopped, "--evaluate-every", "20")
    assert reports[-1]["step"] == 60
    assert reports[0]["step"] > 20
    assert weights(stopped) == weights(whole)


def test_a_seed_is_a_run(tmp_path: Path) -> None:
    options = (*TINY, *LOOPED, "--steps", "5", "--evaluate-every", "5")
    runs = []
    for name, seed in ("a", "1"), ("b", "1"), ("c", "2"):
        train("mirror", tmp_path / name, *options, "--seed", seed)
        runs.append(weights(tmp_path / name))
    assert runs[0] == runs[1] != runs[2]


def test_shared_layers_part_as_copies(tmp_path: Path) -> None:
    options = (*TINY, *LOOPED, "--evaluate-every", "1000", "--warmup", "0", "--cooldown", "1")
    train("mirror", tmp_path, *options, "--steps", "3")
    before = load_file(tmp_path / "model/model.safetensors")
    train("mirror", tmp_path, "--steps", "3", "--num-own-layers", "4")
    after = load_file(tmp_path / "model/model.safetensors")
    first, third = (f"model.transformer.blocks.{n}.ff_out.weight" for n in (0, 2))
    assert (before[first] == before[third]).all()
    assert all((before[name] == after[name]).all() for name in before)
    train("mirror", tmp_path, "--steps", "6", "--evaluate-every", "6")
    parted = load_file(tmp_path / "model/model.safetensors")
    assert (parted[first] != parted[third]).any()


def test_sudoku_leaves_the_plateau_within_sixty_steps(tmp_path: Path) -> None:
    options = ("--num-layers", "4", "--batch", "16", "--steps", "120", "--cooldown", "20")
    reports = train("sudoku", tmp_path, *options, "--evaluate-every", "60", "--held-out", "10")
    assert reports[-1]["loss"] < 1.9  # chance: 2.197
    file = tmp_path / "sudoku.gguf"
    convert(tmp_path / "model", file, "int8", overrides={"edge.task": "sudoku"})
    with edge.load(file) as model:
        assert model.generate("123456789" + "." * 72, steps=2).verified is False


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        pytest.param(("sudoku",), "the run is one of 'mirror', not of 'sudoku'", id="task"),
        pytest.param(
            ("mirror", "--batch", "7"), "batch is 64 in this run; 7 needs a new folder", id="batch"
        ),
    ],
)
def test_a_run_stays_what_it_is(options: tuple[str, ...], wanted: str, tmp_path: Path) -> None:
    train("mirror", tmp_path, *TINY, *LOOPED, "--steps", "1", "--evaluate-every", "1")
    task, *rest = options
    done = subprocess.run(command(task, tmp_path, *rest), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'run.safetensors'}: {wanted}\n"


def test_a_damaged_run_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    file.write_bytes(b"x" * 100)
    done = subprocess.run(command("mirror", tmp_path), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file}: ")
    assert done.stderr.count("\n") == 1
    assert file.read_bytes() == b"x" * 100

"""The trainer of drafts and the bench that counts what is kept, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated_model import MASK, Gated

import edge
from convert import convert

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPTS = [f"{a}{b} {c}" for a in "abc" for b in "abcd" for c in "xyz"]


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, os.fspath(EXAMPLES / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


def gated() -> Gated:
    return Gated.random(1, vocab=256, rank=32, strength=0.05, habit=1.2)


def test_the_bench_counts_what_is_kept(
    tmp_path: Path, chat_checkpoint: Path, prompts: Path
) -> None:
    base, adapter = gated().write_with_tokenizer(tmp_path / "source", chat_checkpoint)
    convert(base, tmp_path / "model.gguf", "q8_0", gated_adapter=adapter)
    done = run("bench/drafts.py", tmp_path / "model.gguf", prompts, "--count", 3, "--tokens", 20)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 4
    plain, blocks = rows[1], rows[2]
    assert plain[0] == "plain"
    assert plain[3] == "1.00"
    assert blocks[0:2] == ["whole", "blocks"]
    assert float(blocks[4]) > 1.2  # tokens per forward
    assert float(blocks[5]) > 1.2  # kept per draft


@pytest.mark.train
def test_masked_rows_learn_to_draft(tmp_path: Path, chat_checkpoint: Path, prompts: Path) -> None:
    checkpoint, _ = gated().write_with_tokenizer(tmp_path / "source", chat_checkpoint)
    base = tmp_path / "base.gguf"
    keys = {"diffusion.attention": "causal_context"}
    convert(checkpoint, base, "f32", mask_token_id=MASK, overrides=keys)
    small = ("--rank", 8, "--answer-tokens", 32, "--drafts", 8, "--cooldown", 1, "--steps", 120)
    often = ("--evaluate-every", 40, "--held-out", 0.2)

    def train(folder: str, *options: object) -> list[dict[str, Any]]:
        done = run("train/gated.py", base, prompts, tmp_path / folder, *small, *often, *options)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    first, *_, last = train("whole")
    assert last["loss"] < first["loss"]
    assert last["kept_per_block"] >= first["kept_per_block"]
    out = tmp_path / "model.gguf"
    convert(checkpoint, out, "f32", gated_adapter=tmp_path / "whole/adapter")
    with edge.load(out) as model, edge.load(base) as plain:
        drafted = [model.generate(text, block_length=8, max_tokens=32) for text in PROMPTS[:7]]
        wanted = [plain.generate(t, sampler="autoregressive", max_tokens=32) for t in PROMPTS[:7]]
    assert [each.ids for each in drafted] == [each.ids for each in wanted]
    kept = sum(d.stats.accepted_tokens for d in drafted) / sum(d.stats.drafts for d in drafted)
    assert abs(1 + kept - last["kept_per_block"]) < 1.5  # blocks begin elsewhere
    # Stopped after a part and gone on with, the run is the same.
    train("parts", "--steps", 50)
    train("parts")
    for name in ("run.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    refused = run("train/gated.py", base, prompts, tmp_path / "parts", "--rank", 4)
    assert refused.returncode == 1
    assert "rank is 8 in this run" in refused.stderr


@pytest.mark.train
def test_the_trainers_network_is_the_runtimes(tmp_path: Path) -> None:
    source = gated()
    source.settings["lora_alpha"] = source.settings["r"]
    base, adapter = source.write(tmp_path / "source")
    path = tmp_path / "model.gguf"
    convert(base, path, "f32", gated_adapter=adapter)
    program = """
import sys, numpy, torch, safetensors.torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from causal import Adapter, Base, draft, read
base = Base(Path(sys.argv[2]), torch.float32)
adapter = Adapter(base, 32)
stored = safetensors.torch.load_file(sys.argv[3])
for name, tensor in adapter.peft().items():
    tensor.copy_(stored[name])
context = read(base, torch.arange(20) % 15)
hidden = draft(base, adapter, context, torch.tensor([5, 12]), 3)
logits = [context.hidden @ base.head.T, (hidden @ base.head.T).flatten(0, 1)]
numpy.save(sys.argv[4], torch.cat(logits).detach().numpy())
"""
    stored, out = adapter / "adapter_model.safetensors", tmp_path / "logits.npy"
    arguments = [EXAMPLES / "train", path, stored, out]
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True)
    found, ids = np.load(out), [n % 15 for n in range(20)]
    with edge.load(path) as model:
        wanted = [model.logits(ids, 20)]
        wanted += [model.logits([*ids[:s], MASK, MASK, MASK], s)[s:] for s in (5, 12)]
    assert np.abs(found - np.concatenate(wanted)).max() < 1e-3

"""A checkpoint, its adapter, and the answers: from the folders to the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gated_model import MASK, Gated

import edge as library
from convert.cli import run as edge_convert

Edge = Callable[..., Any]
ASK = ("run", "-m", "model.gguf", "--tokens", "40", "--raw", "--eos", "forbid")


@pytest.fixture
def model(tmp_path: Path, chat_checkpoint: Path) -> Path:
    """A file made by the command, with a tokenizer of a token per byte."""
    gated = Gated.random(1, vocab=256, rank=32, strength=0.05, habit=1.2)
    base, adapter = gated.write_with_tokenizer(tmp_path / "source", chat_checkpoint)
    out = tmp_path / "model.gguf"
    options = ["--gated-adapter", adapter, "--type", "q8_0", "--quiet"]
    assert edge_convert([str(part) for part in (base, out, *options)]) == 0
    return out


pytestmark = pytest.mark.usefixtures("model")


def test_the_same_text_in_fewer_forwards(edge_process: Edge, edge: Edge) -> None:
    drafted = edge_process(*ASK, "--json", "ab abab")
    assert drafted.code == 0
    plain = edge(*ASK, "--sampler", "autoregressive", "--json", "ab abab")
    found, wanted = json.loads(drafted.out), json.loads(plain.out)
    assert found["ids"] == wanted["ids"]
    assert found["text"] == wanted["text"]
    assert found["sampler"] == "speculative"
    assert wanted["nfe"] == wanted["tokens"] == 40
    assert found["unverified_tokens"] == 0
    fixed = json.loads(edge(*ASK, "--block-length", "8", "--json", "ab abab").out)
    assert fixed["ids"] == wanted["ids"]
    assert fixed["nfe"] < 40
    assert fixed["accepted_tokens"] == 40 - fixed["nfe"]
    assert fixed["drafted_tokens"] >= fixed["accepted_tokens"]
    assert fixed["drafts"] > 0


def test_what_is_told_on_stderr(edge: Edge) -> None:
    ended = edge(*ASK, "--block-length", "8", "--stats", "ab abab")
    assert "drafted tokens kept" in ended.err
    assert "unverified" not in ended.err
    shown = edge("show", "-m", "model.gguf")
    assert "32, of the adapter of mask tokens" in shown.out
    assert json.loads(edge("show", "-m", "model.gguf", "--json").out)["gate_rank"] == 32


@pytest.mark.parametrize("sampler", ["speculative", "autoregressive"])
def test_a_conversation_stores_only_what_is_new(model: Path, sampler: str) -> None:
    options = {"sampler": sampler, "max_tokens": 12, "eos": "forbid"}
    with library.load(model, threads=1) as loaded:
        talk = loaded.conversation(**options)
        first, second = talk.say("ab ab"), talk.say("ba")
        assert first.stats.reused_tokens == 0
        assert second.stats.reused_tokens > 10
        said = [{"role": "user", "content": "ab ab"}]
        assert loaded.chat(said, **options).ids == first.ids
        said += [{"role": "assistant", "content": first.text or ""}]
        said += [{"role": "user", "content": "ba"}]
        assert loaded.chat(said, **options).ids == second.ids
        assert loaded.chat(said, **options, budget_ms=60_000).ids == second.ids


def test_holes_are_filled_by_the_loop_of_all_others(model: Path) -> None:
    with library.load(model, threads=1) as loaded:
        filled = loaded.fill(["ab ", library.Hole(3)])
        assert filled.stats.steps == 3
        assert len(filled.holes) == 1
        chosen = loaded.fill(["ab ", library.Hole(3), "b"], choices=["ab", "ba"])
        assert chosen.holes[0].text in ("ab", "ba")
        with pytest.raises(library.RequestError, match="fills no holes"):
            loaded.fill(["ab ", library.Hole(3)], sampler="speculative")


def test_a_budget(edge: Edge) -> None:
    answer = json.loads(edge(*ASK, "--budget", "10s", "--json", "ab abab").out)
    assert answer["status"] == "complete"
    assert answer["overshoot_ms"] < 0
    assert answer["unverified_tokens"] == 0
    short = json.loads(edge(*ASK, "--budget", "0.001ms", "--json", "ab abab").out)
    assert short["status"] == "deadline_infeasible"
    assert edge(*ASK, "--budget", "0.001ms", "--on-infeasible", "error", "ab").code in (0, 7)


def test_refusals(edge: Edge) -> None:
    ended = edge(*ASK, "--steps", "4", "ab")
    assert ended.code == 2
    assert "steps has no effect on the sampler speculative" in ended.err
    assert edge("run", "--sampler", "speculative", "1" * 81).code == 2
    assert edge(*ASK, "").code == 2
    assert MASK == 16

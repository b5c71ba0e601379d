"""The recorded LLaDA: logits of the published modelling code, runs of the published sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge

Recording = Mapping[str, NDArray[Any]]
THREADS = (1, 2, 4)
MASK = 245
RUNS = {
    "gen_low_conf_states": {"steps": 12, "block_length": 8},
    "gen_one_block_states": {"steps": 6, "block_length": 24},
}


@pytest.fixture(scope="module")
def recording(golden: Callable[[str], Path]) -> Recording:
    with np.load(golden("llada") / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def llada(golden: Callable[[str], Path], converted: Callable[..., Path]) -> Path:
    return converted(golden("llada"), "f32")


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.usefixtures("isa")
def test_logits_of_the_published_model(llada: Path, recording: Recording, threads: int) -> None:
    with edge.load(llada, threads=threads) as model:
        logits = model.logits(recording["x"])
    assert np.abs(logits - recording["logits"]).max() < 1e-4


@pytest.mark.usefixtures("isa")
def test_logits_of_the_masked_prompt(llada: Path, recording: Recording) -> None:
    masked = recording["x"].copy()
    masked[: len(recording["prompt"])] = MASK
    with edge.load(llada) as model:
        logits = model.logits(masked)
    assert np.abs(logits - recording["uncond_logits"]).max() < 1e-4


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.usefixtures("isa")
def test_published_loop(llada: Path, recording: Recording, threads: int, name: str) -> None:
    states = recording[name]
    seen = [states[0]]
    with edge.load(llada, threads=threads) as model:
        result = model.generate_ids(
            recording["prompt"],
            max_tokens=24,
            sampler="low_confidence_static",
            reference=True,
            on_step=lambda draft: seen.append(draft.ids),
            **RUNS[name],
        )
    assert np.array_equal(seen, states)
    assert result.ids == states[-1][len(recording["prompt"]) :].tolist()
    assert result.stats.nfe == result.stats.steps == len(states) - 1


@pytest.mark.parametrize("name", RUNS)
def test_recorded_runs_are_of_this_plan(recording: Recording, name: str) -> None:
    states = recording[name]
    prompt = recording["prompt"]
    assert states[0].tolist() == [*prompt.tolist(), *[MASK] * 24]
    assert len(states) == RUNS[name]["steps"] + 1
    assert (states[-1] != MASK).all()


def test_without_reference_the_answer_is_the_same_here(llada: Path, recording: Recording) -> None:
    """The static sampler meets the progress floor, and the mask token is never the best here."""
    states = recording["gen_low_conf_states"]
    with edge.load(llada) as model:
        result = model.generate_ids(recording["prompt"], max_tokens=24, steps=12, block_length=8)
    end = np.flatnonzero(states[-1][13:] == 240)
    assert result.ids == states[-1][13:].tolist()[: end[0] if len(end) else None]
    assert result.stats.forced_tokens == 0

"""More steps or more time never make an answer worse, judged by a denoiser that knows the truth."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import markov
import numpy as np
import pytest
from numpy.typing import NDArray

Timed = Callable[..., Any]
Ints = NDArray[np.int32]
MASK = 256
LENGTH, BLOCK = 48, 16
FULL_MS = LENGTH * 100 + 2 * 84
PER_CELL = 16
SHARES = (0.08, 0.15, 0.3, 0.6, 1.2)
STEPS = (3, 8, 16, 48)


def sampling(seed: int) -> tuple[Any, Callable[..., Any]]:
    """A chain, and a denoiser that draws from its posteriors as temperature 1 would."""
    chain, random = markov.Chain(seed % 8), np.random.default_rng(seed)

    def denoise(ids: Ints, _positions: Ints) -> tuple[Ints, NDArray[np.float32]]:
        posterior = chain.posterior(ids, MASK)
        drawn = (posterior.cumsum(axis=1) < random.random((len(ids), 1))).sum(axis=1)
        tokens = np.minimum(drawn, markov.NUM_STATES - 1)
        return tokens.astype(np.int32), posterior[np.arange(len(ids)), tokens].astype(np.float32)

    return chain, denoise


def badness(timed: Timed, **options: Any) -> NDArray[np.float64]:
    """Negative log-likelihoods of the answers to ``PER_CELL`` requests; low is good."""
    values = []
    for seed in range(PER_CELL):
        chain, denoise = sampling(seed)
        random = np.random.default_rng(seed)
        jitter = (float(np.exp(0.19 * random.normal())) for _ in iter(int, 1))
        config = {"attention": "full", "block_length": BLOCK, "eos_ids": ()}
        run = timed(max_tokens=LENGTH, config=config, denoise=denoise, noise=jitter, **options)
        assert run.result.complete
        values.append(chain.nll(np.array(run.result.ids)))
    return np.array(values)


def never_rises(cells: list[NDArray[np.float64]]) -> None:
    """Whether the means fall, within three bootstrap errors of each difference."""
    random = np.random.default_rng(0)
    for before, after in pairwise(cells):
        gain = before - after  # the same requests
        means = [random.choice(gain, len(gain)).mean() for _ in range(500)]
        assert gain.mean() > -3 * np.std(means)
    assert cells[0].mean() > cells[-1].mean() + 0.1


@pytest.mark.parametrize("sampler", ["low_confidence_static", "low_confidence_dynamic"])
def test_quality_rises_with_steps(timed: Timed, sampler: str) -> None:
    never_rises([badness(timed, steps=steps, sampler=sampler) for steps in STEPS])


@pytest.mark.parametrize("sampler", ["low_confidence_static", "low_confidence_dynamic"])
def test_quality_rises_with_the_budget(timed: Timed, sampler: str) -> None:
    never_rises([badness(timed, budget_ms=share * FULL_MS, sampler=sampler) for share in SHARES])

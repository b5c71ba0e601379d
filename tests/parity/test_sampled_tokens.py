"""Drawn tokens: the right frequencies, and the same ones wherever and however they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge import _native

VOCAB = 40
IDS = np.random.default_rng(1).integers(0, VOCAB, 64).astype(np.int32)
NUM_DRAWS = 4000

Step = Callable[..., _native.StepOutput]


@pytest.fixture(scope="module")
def path(checkpoint: Callable[..., Path], converted: Callable[..., Path]) -> Path:
    return converted(checkpoint(n_layers=1), "q8_0")


@pytest.fixture(scope="module")
def model(path: Path, denoiser: Callable[..., _native.Denoiser]) -> _native.Denoiser:
    return denoiser(path)


def chi_square(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """In standard deviations above its mean, rare tokens counted as one."""
    common = probabilities * NUM_DRAWS >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(probabilities[common], probabilities[~common].sum()) * NUM_DRAWS
    expected, observed = expected[expected > 0], observed[expected > 0]
    freedom = len(expected) - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return (statistic - freedom) / float(np.sqrt(2 * freedom))


def tempered(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("varied", ["draw", "seed", "high seed"])
def test_frequencies(model: _native.Denoiser, step: Step, temperature: float, varied: str) -> None:
    def heads() -> Iterable[_native.HeadOptions]:
        for i in range(NUM_DRAWS):
            seed = {"draw": 11, "seed": i, "high seed": i << 32}[varied]
            draw = i if varied == "draw" else 0
            yield _native.HeadOptions(temperature=temperature, seed=seed, draw=draw)

    drawn = [int(step(model, IDS[:2], head_rows=[1], head=head).sampled[0]) for head in heads()]
    counts = np.bincount(drawn, minlength=VOCAB)
    logits = model.logits(IDS[:2])[1]
    assert chi_square(counts, tempered(logits, temperature)) < 5
    assert chi_square(counts, tempered(logits, temperature * 2)) > 20  # it can tell


def test_frequencies_over_positions(model: _native.Denoiser, step: Step) -> None:
    """A token alone has the same logits wherever it stands; only its noise differs."""
    head = _native.HeadOptions(temperature=1.0, seed=2)
    counts = np.zeros(VOCAB, np.int64)
    for i in range(NUM_DRAWS):
        options = head if i < 128 else _native.HeadOptions(temperature=1.0, seed=2, draw=i // 128)
        counts[step(model, IDS[:1], positions=[i % 128], head=options).sampled[0]] += 1
    assert chi_square(counts, tempered(model.logits(IDS[:1])[0], 1.0)) < 5


def truncated(probabilities: NDArray[np.float64], top_k: int, top_p: float) -> NDArray[np.float64]:
    """The k most probable, of those the fewest that reach p together."""
    order = np.argsort(-probabilities, kind="stable")[: top_k or None]
    shares = probabilities[order] / probabilities[order].sum()
    kept = order[: int(np.searchsorted(shares.cumsum(), top_p)) + 1]
    out = np.zeros_like(probabilities)
    out[kept] = probabilities[kept] / probabilities[kept].sum()
    return out


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.6), (8, 0.6), (1, 1.0), (0, 1e-6)])
def test_frequencies_of_the_most_probable(
    model: _native.Denoiser, step: Step, top_k: int, top_p: float
) -> None:
    counts = np.zeros(VOCAB, np.int64)
    for draw in range(NUM_DRAWS):
        head = _native.HeadOptions(temperature=1.5, seed=6, draw=draw, top_k=top_k, top_p=top_p)
        counts[step(model, IDS[:2], head_rows=[1], head=head).sampled[0]] += 1
    wanted = truncated(tempered(model.logits(IDS[:2])[1], 1.5), top_k, top_p)
    assert (counts[wanted == 0] == 0).all()
    assert (wanted > 0).sum() == 1 or chi_square(counts, wanted) < 5


@pytest.mark.parametrize("restriction", [{}, {"top_k": 9}, {"top_p": 0.8}])
def test_the_same_whatever_threads_isa_and_rows(
    path: Path,
    model: _native.Denoiser,
    denoiser: Callable[..., _native.Denoiser],
    step: Step,
    restriction: dict[str, Any],
) -> None:
    head = _native.HeadOptions(temperature=1.0, seed=9, draw=3, **restriction)
    wanted = step(model, IDS, head=head).sampled
    assert not np.array_equal(wanted, step(model, IDS).top1)
    for isa in _native.supported_isas():
        for threads in (1, 2, 4):
            other = denoiser(path, isa=isa, threads=threads)
            assert np.array_equal(step(other, IDS, head=head).sampled, wanted)
            few = step(other, IDS, head_rows=[5, 40], head=head).sampled
            assert np.array_equal(few, wanted[[5, 40]])


def test_seed_and_draw_each_change_the_noise(model: _native.Denoiser, step: Step) -> None:
    options = [(1, 0), (2, 0), (1 << 32, 0), (1, 1), ((1 << 64) - 1, 0), (1, (1 << 32) - 1)]
    drawn = [
        step(model, IDS, head=_native.HeadOptions(temperature=1.0, seed=seed, draw=draw))
        for seed, draw in options
    ]
    assert len({tuple(output.sampled.tolist()) for output in drawn}) == len(options)
    again = step(model, IDS, head=_native.HeadOptions(temperature=1.0, seed=1, draw=0))
    assert np.array_equal(again.sampled, drawn[0].sampled)


def test_the_drawn_token_s_logit_is_its_own(model: _native.Denoiser, step: Step) -> None:
    output = step(model, IDS, head=_native.HeadOptions(temperature=3.0, seed=1))
    rows = np.arange(len(IDS))
    assert np.array_equal(output.sampled_logit, model.logits(IDS)[rows, output.sampled])
    assert (output.sampled != output.top1).any()


def test_forbidden_ids_are_never_drawn(model: _native.Denoiser, step: Step) -> None:
    forbidden = list(range(0, 30, 2))
    for draw in range(50):
        head = _native.HeadOptions(30, forbidden, temperature=100.0, seed=1, draw=draw)
        sampled = step(model, IDS, head=head).sampled
        assert (sampled < 30).all()
        assert (sampled % 2 == 1).all()


def test_a_tiny_temperature_is_the_argmax(model: _native.Denoiser, step: Step) -> None:
    output = step(model, IDS, head=_native.HeadOptions(temperature=1e-30, seed=1))
    assert np.array_equal(output.sampled, output.top1)

"""Nemotron-Labs-Diffusion: a causal context, bidirectional blocks, stretched positions.

The arrays in tests/golden/nemotron_labs_diffusion were made with transformers' Ministral3.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge
from edge.positions import Yarn

Converted = Callable[..., Path]
GOLDEN = Path(__file__).parents[1] / "golden" / "nemotron_labs_diffusion"
MASK = 245


@pytest.fixture(scope="module")
def expected() -> Any:
    return np.load(GOLDEN / "expected.npz")


@pytest.fixture(params=["default", "generic"])
def model(
    converted: Converted, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Any:
    if request.param != "default":
        monkeypatch.setenv("EDGE_ISA", request.param)
    with edge.load(converted(GOLDEN)) as model:
        yield model


def test_the_frequencies_are_those_of_transformers(expected: Any) -> None:
    yarn = Yarn(16.0, 16, 32.0, 1.0, 1.0)
    np.testing.assert_allclose(yarn.frequencies(1e6, 32), expected["inv_freq"], rtol=1e-5)


def test_the_file_says_what_config_json_says(model: edge.Model, expected: Any) -> None:
    denoiser = model.config.denoiser
    assert denoiser.yarn is not None
    assert denoiser.query_scale is not None
    assert denoiser.yarn.magnitude == pytest.approx(float(expected["attention_scaling"]))
    assert (denoiser.query_scale.beta, denoiser.query_scale.length) == (pytest.approx(0.1), 16)
    diffusion = model.config.diffusion
    assert (diffusion.attention, diffusion.block_length) == ("causal_context", 8)


def test_logits(model: edge.Model, expected: Any) -> None:
    prompt = expected["prompt"]
    causal = model.logits(prompt, context_length=len(prompt))
    np.testing.assert_allclose(causal, expected["ar_logits"], atol=1e-4)
    block = expected["block0"].copy()
    for step, position in enumerate(expected["order"]):
        canvas = np.concatenate([prompt, block])
        logits = model.logits(canvas, context_length=len(prompt))[len(prompt) :]
        np.testing.assert_allclose(logits, expected["block_logits"][step], atol=1e-4)
        block[position] = expected["block_final"][position]
    whole = np.concatenate([prompt, block])
    committed = model.logits(whole, context_length=len(whole))[len(prompt) :]
    np.testing.assert_allclose(committed, expected["commit_logits"], atol=1e-4)


def test_a_run_commits_what_the_reference_does(model: edge.Model, expected: Any) -> None:
    start, order = len(expected["prompt"]), []

    def look(draft: edge.Draft) -> None:
        is_open = {int(i) - start for i in np.flatnonzero(draft.ids == MASK)}
        order.extend(sorted(set(range(1, 8)) - is_open - set(order)))

    options = {"sampler": "low_confidence_static", "steps": 7, "on_step": look}
    result = model.generate_ids(expected["prompt"], max_tokens=8, **options)
    assert result.ids == expected["block_final"].tolist()
    assert order == expected["order"].tolist()


@pytest.mark.parametrize("kind", ["f32", "q8_0", "int8"])
def test_speculation_gives_the_greedy_text(converted: Converted, kind: str) -> None:
    random = np.random.default_rng(3)
    with edge.load(converted(GOLDEN, kind), threads=2) as model:
        for _ in range(25):
            prompt = random.integers(0, 244, random.integers(1, 40))
            plain = model.generate_ids(prompt, max_tokens=24, sampler="autoregressive")
            quick = model.generate_ids(prompt, max_tokens=24, sampler="speculative")
            assert quick.ids == plain.ids


def test_autoregression_is_the_arg_max_of_causal_rows(model: edge.Model, expected: Any) -> None:
    ids = expected["prompt"].tolist()
    for _ in range(6):
        logits = model.logits(ids, context_length=len(ids))[-1].copy()
        logits[model.config.diffusion.mask_token_id] = -np.inf
        ids.append(int(logits.argmax()))
    found = model.generate_ids(expected["prompt"], max_tokens=6, sampler="autoregressive")
    assert found.ids == ids[len(expected["prompt"]) :]

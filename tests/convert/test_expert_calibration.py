"""Calibration of experts: each expert's weights are rounded for the rows that it gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expert_checkpoints import write_checkpoint
from expert_models import MASK, ExpertModel

import edge
from convert import convert
from convert.calibration import run
from convert.calibration.expert_inputs import ExpertInputs, of_layer
from convert.calibration.moments import Moments
from convert.calibration.noise import noisy_canvases
from convert.calibration.reference import Reference
from edge.formats.experts import Experts
from edge.formats.gguf_file import open_model

MODEL = ExpertModel(
    Experts(8, 2, 64, 64, 1, "sigmoid", bias_counts=True), num_layers=3, rotary_dims=32
)


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_MOST_ROWS", 1024)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("experts") / "source", "LLaDAMoEModelLM", MODEL)


def output_errors(layer: int, reference: Reference, inputs: Any, path: Path) -> dict[str, float]:
    """Of each stack of experts the share of its outputs' energy that rounding costs."""
    stored, errors = open_model(path), {}
    for name, each in inputs.items():
        if not isinstance(each, ExpertInputs):
            continue
        lost = whole = 0.0
        rows = stored.tensors[name].shape[1]
        for expert in range(MODEL.experts.num_experts):
            x = each.of(expert).astype(np.float64)
            weights = reference.rows(name, expert * rows, rows)
            change = weights - stored.read_rows(name, expert * rows, rows)
            lost += float(np.square(x @ change.T).sum())
            whole += float(np.square(x @ weights.T).sum())
        errors[name] = lost / whole
    assert len(errors) == (3 if MODEL.experts.num_dense_layers <= layer else 0)
    return errors


def test_compensated_experts_lose_less(source: Path, tmp_path: Path) -> None:
    """On canvases that the calibration did not see."""
    convert(source, tmp_path / "f32.gguf", "f32")
    methods = ("nearest", "compensated")
    for method in methods:
        out = tmp_path / f"{method}.gguf"
        convert(source, out, "int4", method=method, group_size=32, minima=False)
    reference = Reference(tmp_path / "f32.gguf", 1)
    with edge.load(tmp_path / "f32.gguf") as model:
        canvases = noisy_canvases(model, None, 512, seed=99)
    hidden = reference.embedded(canvases)
    for layer in range(MODEL.num_layers):
        inputs = reference.watch_layer(layer, canvases, hidden)
        nearest, compensated = (
            output_errors(layer, reference, inputs, tmp_path / f"{method}.gguf")
            for method in methods
        )
        for name, error in compensated.items():
            assert error < 0.7 * nearest[name], name


def test_mixed_bits_do_not_depend_on_threads(source: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        convert(source, tmp_path / f"{threads}.gguf", "int4", bits=5.5, threads=threads)
    first, second = ((tmp_path / f"{threads}.gguf").read_bytes() for threads in (1, 3))
    assert first == second


def test_a_smoothed_model_decodes(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "model.gguf", "int8", smooth=True)
    with edge.load(tmp_path / "model.gguf") as model:
        assert MASK not in model.generate_ids([1, 2, 3], max_tokens=9).ids


def test_an_expert_s_factors_are_of_its_own_rows_and_of_all() -> None:
    random = np.random.default_rng(4)
    inputs = [random.standard_normal((50, 32)).astype(np.float32) for _ in range(2)]
    pairs = []
    for _ in inputs:
        experts = np.repeat(np.arange(3, dtype=np.int32), 20)  # and nothing for the fourth
        rows = np.concatenate([random.permutation(50)[:20] for _ in range(3)]).astype(np.int32)
        pairs.append((experts, rows, random.standard_normal((60, 64)).astype(np.float32)))
    shared, own = of_layer(inputs, pairs)
    everything = Moments.of_columns(32)
    for part in inputs:
        everything.add(part)
    np.testing.assert_allclose(
        shared.factors(3)[0], 10 * everything.factors()[0], rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(shared.factors(0)[0], shared.factors(1)[0], rtol=1e-3)
    np.testing.assert_array_equal(own.factors(3)[0], np.eye(64, dtype=np.float32))
    assert own.factors(0)[0].shape == (64, 64)


def test_rows_are_counted_through_the_canvases() -> None:
    canvases = [
        np.arange(4, dtype=np.float32)[:, None] + value * np.ones(32, np.float32)
        for value in (10, 20)
    ]
    five, second = np.array([5], np.int32), np.array([2], np.int32)
    pairs = [(five, second, np.full((1, 64), value, np.float32)) for value in (1, 2)]
    shared, own = of_layer(canvases, pairs)
    np.testing.assert_array_equal(shared.of(5)[:, 0], [12, 22])
    assert own.diagonal[0] == pytest.approx(2.5)
    assert shared.factors(5)[0].shape == (32, 32)

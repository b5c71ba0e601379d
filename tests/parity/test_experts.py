"""Mixtures of experts against the numpy twin: every router, every type, exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy_twin
import pytest
from expert_models import VOCAB, ExpertModel
from numpy_experts import mixture

import edge
from edge import _native, pack_cache
from edge.formats.experts import Experts

ROUTERS = {
    "softmax": Experts(8, 2, 32),
    "softmax_renormalised": Experts(16, 4, 32, renormalises=True),
    "sigmoid_groups": Experts(
        16, 3, 64, 32, 1, "sigmoid", renormalises=True, scale=2.5, num_groups=4, num_used_groups=2
    ),
    "bias_counts": Experts(8, 3, 96, scores="softmax", bias_counts=True),
    "one_expert": Experts(1, 1, 32, 64),
    "all_experts": Experts(4, 4, 32, 0, 2, "sigmoid"),
}
ISAS = _native.supported_isas()
Make = Callable[..., tuple[Path, numpy_twin.Network]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """``make("softmax", "int8")``: the file and the twin's network."""
    folder = tmp_path_factory.mktemp("experts")
    files: dict[Any, tuple[Path, numpy_twin.Network]] = {}

    def made(name: str, kind: str = "f32", **changes: Any) -> tuple[Path, numpy_twin.Network]:
        key = (name, kind, *changes.items())
        if key not in files:
            path = folder / f"{len(files)}.gguf"
            files[key] = path, ExpertModel(ROUTERS[name], **changes).write(path, kind)
        return files[key]

    return made


def some_ids(count: int) -> Any:
    return np.random.default_rng(count).integers(0, VOCAB, count).astype(np.int32)


@pytest.mark.parametrize("router", list(ROUTERS))
def test_a_float_network_is_the_formula(
    make: Make, denoiser: Callable[..., _native.Denoiser], router: str
) -> None:
    path, net = make(router)
    ids = some_ids(33)
    wanted = numpy_twin.forward(net, ids, numpy_twin.Plain(), experts=mixture)
    assert np.abs(denoiser(path).logits(ids) - wanted).max() < 1e-3


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "int8", "int4", "q8_0", "q4_0"])
@pytest.mark.parametrize("router", ["softmax", "sigmoid_groups"])
def test_every_bit_is_the_twins(
    make: Make,
    denoiser: Callable[..., _native.Denoiser],
    router: str,
    kind: str,
    activations: str,
) -> None:
    path, net = make(router, kind)
    ids = some_ids(21)
    exactly = numpy_twin.AsEngine(int8=activations == "int8", quantized=net.is_quantized)
    wanted = numpy_twin.forward(net, ids, exactly, experts=mixture)
    np.testing.assert_array_equal(denoiser(path, activations=activations).logits(ids), wanted)


@pytest.mark.parametrize("router", list(ROUTERS))
def test_routers_choose_as_the_twin_does(
    make: Make, denoiser: Callable[..., _native.Denoiser], router: str
) -> None:
    path, net = make(router, "q8_0")
    ids = some_ids(40)
    exactly = numpy_twin.AsEngine(int8=True)
    wanted = numpy_twin.forward(net, ids, exactly, experts=mixture)
    np.testing.assert_array_equal(denoiser(path).logits(ids), wanted)


@pytest.mark.parametrize("kind", ["f32", "bf16", "int8", "int4", "q4_0"])
def test_isas_and_threads_give_the_same_bits(
    make: Make, denoiser: Callable[..., _native.Denoiser], kind: str
) -> None:
    path, _ = make("sigmoid_groups", kind)
    ids = some_ids(61)
    first = denoiser(path, isa="generic").logits(ids)
    for isa in ISAS:
        for threads in (1, 2, 5):
            again = denoiser(path, isa=isa, threads=threads).logits(ids)
            assert np.array_equal(first, again), (isa, threads)


@pytest.mark.parametrize("kind", ["f32", "int8", "int4"])
def test_a_row_does_not_depend_on_other_rows(
    make: Make, denoiser: Callable[..., _native.Denoiser], kind: str
) -> None:
    path, _ = make("softmax_renormalised", kind)
    ids, engine = some_ids(47), denoiser(path)
    causal = _native.AttentionMask("causal")
    whole = engine.logits(ids, causal)
    for count in (1, 2, 13, 30):
        np.testing.assert_array_equal(engine.logits(ids[:count], causal), whole[:count])


@pytest.mark.parametrize("kind", ["f32", "int8", "int4", "q4_0"])
def test_experts_that_end_amid_a_panel(
    tmp_path: Path, denoiser: Callable[..., _native.Denoiser], kind: str
) -> None:
    """40 rows are two panels and a half; the next expert begins a panel of its own."""
    path = tmp_path / "model.gguf"
    net = ExpertModel(replace(ROUTERS["softmax"], size=40)).write(path, kind)
    ids = some_ids(19)
    exactly = numpy_twin.AsEngine(int8=True, quantized=net.is_quantized)
    wanted = numpy_twin.forward(net, ids, exactly, experts=mixture)
    np.testing.assert_array_equal(denoiser(path).logits(ids), wanted)


def test_a_step_tells_how_many_experts_it_touched(
    make: Make,
    denoiser: Callable[..., _native.Denoiser],
    step: Callable[..., _native.StepOutput],
) -> None:
    path, _ = make("sigmoid_groups")
    output = step(denoiser(path), some_ids(5))
    assert output.experts.pairs == 2 * 5 * 3  # layers, rows, experts of a row
    assert 2 * 3 <= output.experts.touched <= output.experts.pairs


@pytest.mark.parametrize("kind", ["int8", "q4_0"])
def test_packed_side_files_hold_experts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(pack_cache, "SMALLEST_BYTES", 1)
    monkeypatch.setattr(pack_cache, "cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "model.gguf"
    ExpertModel(replace(ROUTERS["sigmoid_groups"], size=96)).write(path, kind)
    ids, logits = some_ids(23), []
    for packs in (False, True, True):  # the last one maps what the one before wrote
        with edge.load(path, pack_cache=packs) as model:
            logits.append(model.logits(ids))
    assert list((tmp_path / "cache").rglob("*"))
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])

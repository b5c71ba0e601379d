"""Channel scales: the float network stays the same to the bit, and int8 meets fewer outliers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from convert import convert as run
from convert.calibration.moments import Moments
from convert.calibration.reference import Reference
from convert.calibration.smoothing import BEFORE_HEAD, IN_LAYER, Met, Smoothing, exponents_for
from convert.canvases import NoisyCanvas
from convert.channel_scales import ChannelScales
from convert.work_folder import WorkFolder
from edge.formats.gguf_file import read_header
from edge.formats.groups import Choice, Layout, layout_for

Make = Callable[..., Any]  # conftest.folder, conftest.dense
Values = NDArray[np.float32]
IDS = np.random.default_rng(1).integers(0, 39, 24).astype(np.int32)


def layout_of(type: str, cols: int) -> Layout:
    layout = layout_for(type, cols, Choice(0, False))
    assert layout is not None
    return layout


def spiked(folder: Any) -> Any:
    """A checkpoint whose norms and rows are of very different sizes."""
    random = np.random.default_rng(7)
    for name, values in folder.tensors.items():
        if values.ndim == 1:
            folder.tensors[name] = np.exp(random.normal(0, 1, values.shape)).astype(np.float32)
        elif "up_proj" in name or "v_proj" in name:
            folder.tensors[name] = values * np.exp(random.normal(0, 1, (len(values), 1))).astype(
                "f4"
            )
    return folder


@pytest.fixture
def smoothed(
    folder: Make, dense: Make, tmp_path: Path
) -> Callable[[str], tuple[Path, Path, ChannelScales]]:
    """A float file, the same with scales that were chosen for int8, and those."""

    def make(family: str) -> tuple[Path, Path, ChannelScales]:
        source = folder(n_kv_heads=2) if family == "LLaDAModelLM" else dense(family)
        plain, changed = tmp_path / "plain.gguf", tmp_path / "changed.gguf"
        run(spiked(source).write(), plain, "f32")
        scales = chosen(plain, WorkFolder(tmp_path / "work", {}))
        shutil.copy(plain, changed)
        for name, tensor in read_header(plain).tensors.items():
            data = np.memmap(changed, "<f4", "r+", tensor.offset, tuple(tensor.shape))
            data[:] = scales.apply(name, np.array(data))
        return plain, changed, scales

    return make


def chosen(path: Path, work: WorkFolder) -> ChannelScales:
    reference = Reference(path, threads=1)
    smoothing = Smoothing(reference, layouts_of(reference), work)
    canvases = [NoisyCanvas(IDS, np.arange(len(IDS)), np.arange(len(IDS)), 0)]
    hidden = reference.embedded(canvases)
    for layer in range(reference.num_layers):
        places = [place.within(f"blk.{layer}.") for place in IN_LAYER]
        smoothing.choose(places, reference.watch_layer(layer, canvases, hidden))
    smoothing.choose(BEFORE_HEAD, {reference.head: reference.watch_head(canvases, hidden)})
    return smoothing.scales


def layouts_of(reference: Reference) -> dict[str, Layout]:
    tensors = reference.file.tensors.items()
    kinds = ((name, "int8" if len(t.shape) > 1 else "f32", t.shape[-1]) for name, t in tensors)
    return {name: layout_of(kind, cols) for name, kind, cols in kinds}


def logits(path: Path) -> Values:
    with edge.load(path, threads=1) as model:
        return model.logits(IDS)


@pytest.mark.parametrize(
    "family", ["LLaDAModelLM", "DreamModel", "SDARForCausalLM", "Fast_dLLM_QwenForCausalLM"]
)
def test_the_float_network_stays_the_same_to_the_bit(
    smoothed: Callable[[str], tuple[Path, Path, ChannelScales]], family: str
) -> None:
    plain, changed, scales = smoothed(family)
    makers = {name.split(".", 2)[-1] for name, e in scales.rows.items() if e.any()}
    assert {"attn_norm.weight", "ffn_norm.weight", "attn_v.weight", "ffn_up.weight"} <= makers
    assert plain.read_bytes() != changed.read_bytes()
    np.testing.assert_array_equal(logits(plain), logits(changed))


def test_outliers_are_handed_over_and_even_inputs_stay() -> None:
    random = np.random.default_rng(2)
    inputs, rows = (random.normal(size=(n, 64)).astype(np.float32) for n in (300, 32))
    met = [Met(rows, np.abs(rows).max(axis=0), layout_of("int8", 64))]

    def found(values: Values) -> Any:
        moments = Moments.of_columns(64)
        moments.add(values)
        return exponents_for(moments, met, (1, 1))

    assert abs(found(inputs)).max() <= 1
    inputs[:, 5] *= 300
    assert found(inputs)[5] >= 4
    assert found(inputs).argmax() == 5


def test_heads_that_share_keys_share_scales() -> None:
    random = np.random.default_rng(3)
    inputs = random.normal(size=(64, 64)).astype(np.float32)
    inputs[:, 3] *= 100  # head 0 of the first group
    moments = Moments.of_columns(64)
    moments.add(inputs)
    rows = random.normal(size=(32, 64)).astype(np.float32)
    met = [Met(rows, np.abs(rows).max(axis=0), layout_of("int8", 64))]
    exponents = exponents_for(moments, met, (2, 2)).reshape(2, 2, 16)
    np.testing.assert_array_equal(exponents[:, 0], exponents[:, 1])
    assert exponents[0, 1, 3] >= 2


def test_divided_moments_are_those_of_divided_inputs() -> None:
    random = np.random.default_rng(4)
    inputs = random.normal(size=(700, 96)).astype(np.float32)
    exponents = random.integers(-4, 5, 96).astype(np.int32)
    one, two = Moments.of_columns(96), Moments.of_columns(96)
    for part in np.split(inputs, 7):
        one.add(part)
        two.add(np.ldexp(part, -exponents))
    one.divide(exponents)
    np.testing.assert_array_equal(one.blocks[0], two.blocks[0])
    np.testing.assert_array_equal(one.sample, two.sample)
    np.testing.assert_array_equal(one.peaks, two.peaks)
    assert 100 < len(one.sample) <= 256
    np.testing.assert_array_equal(one.sample[1], np.ldexp(inputs[one.stride], -exponents))


def test_what_is_recalled_is_what_was_chosen(dense: Make, tmp_path: Path) -> None:
    path = tmp_path / "plain.gguf"
    run(spiked(dense("DreamModel")).write(), path, "f32")
    first = chosen(path, WorkFolder(tmp_path / "work", {}))
    reference = Reference(path, threads=1)
    again = Smoothing(reference, layouts_of(reference), WorkFolder(tmp_path / "work", {}))
    for layer in range(reference.num_layers):
        assert again.recall([place.within(f"blk.{layer}.") for place in IN_LAYER])
    assert again.recall(BEFORE_HEAD)
    for mine, theirs in ((again.scales.rows, first.rows), (again.scales.cols, first.cols)):
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_nothing_is_kept_or_changed_where_nothing_is_rounded(dense: Make, tmp_path: Path) -> None:
    path, work = tmp_path / "plain.gguf", WorkFolder(tmp_path / "work", {})
    run(dense("DreamModel").write(), path, "f32")
    before = sorted(work.path.iterdir())
    smoothing = Smoothing(Reference(path, threads=1), {}, work)
    assert smoothing.recall(BEFORE_HEAD)
    smoothing.choose(BEFORE_HEAD, {})
    assert not smoothing.scales.rows
    assert not smoothing.scales.cols
    assert sorted(work.path.iterdir()) == before


def test_int8_of_outliers_is_better_smoothed(dense: Make, tmp_path: Path) -> None:
    source = spiked(dense("DreamModel")).write()
    run(source, tmp_path / "f32.gguf", "f32")
    errors = []
    wanted = logits(tmp_path / "f32.gguf")
    for smooth in (False, True):
        out = tmp_path / f"{smooth}.gguf"
        run(source, out, "int8", smooth=smooth)
        with edge.load(out, threads=1, activations="int8") as model:
            errors.append(float(np.square(model.logits(IDS) - wanted).mean()))
    assert errors[1] < 0.9 * errors[0]

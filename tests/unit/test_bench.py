"""``edge.bench``: figures from known times, plans, and random weights of a shape."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
import pytest

from edge import bench, errors, load, random_model
from edge.backends.base import StepRequest
from edge.backends.native import NativeBackend, StepTimes
from edge.bench import Subject, measure, opened_shape, plan_for
from edge.config import read_config
from edge.formats.gguf_file import read_header
from edge.formats.groups import TYPES
from edge.shapes import SHAPES, Shape

TINY = Shape("edge-qwen2", 64, 3, 4, 2, 16, 96, 100, 128)
SHAPES_OF_ALL_KINDS = (
    TINY,
    replace(TINY, tied=True),
    replace(TINY, architecture="edge-qwen3"),
    replace(TINY, architecture="llada"),
    replace(TINY, architecture="dream"),
)
OPTIONS: dict[str, Any] = {"threads": 1, "activations": "int8"}
PEAK: Any = SimpleNamespace(int8_gops=100.0, float_gops=25.0, bf16_gops=50.0)


class Clockwork:
    """A backend whose steps take what they are told to take, and that remembers them."""

    threads, isa = 3, "clockwork"

    def __init__(self, times: list[StepTimes]) -> None:
        self._times = iter(times)
        self.requests: list[StepRequest] = []

    def new_cache(self, capacity: int) -> object:
        return capacity

    def forward(self, request: StepRequest) -> None:
        self.requests.append(request)

    def time_step(self, request: StepRequest) -> StepTimes:
        self.forward(request)
        return next(self._times)


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    random_model.write_random_model(path, TINY, "f32")
    return path


def subject_of(tiny_file: Path, times: list[StepTimes], num_layers: int) -> tuple[Subject, Any]:
    backend = Clockwork(times)
    config = read_config(read_header(tiny_file)).denoiser
    return Subject("f32", cast("NativeBackend", backend), config, num_layers), backend


def test_figures_are_those_of_the_median_step(tiny_file: Path) -> None:
    times = [StepTimes(5.0, 0.5, 2.0, 0.25, 0.25), StepTimes(1.0, 1.0, 1.0, 1.0, 1.0)]
    subject, _ = subject_of(tiny_file, [times[0], times[0], times[1]], TINY.num_layers)
    plan = plan_for(128, [8], [16], head_rows=2, repeats=3)
    (figures,) = measure(subject, plan, PEAK)
    assert (figures.step_ms, figures.gemm_ms, figures.head_ms) == (8.0, 5.0, 2.0)
    assert figures.step_ms_p95 == 8.0
    per_layer = 64 * (64 + 32 + 32) + 64 * 64 + 3 * 64 * 96
    gemm, head, attention = 2 * 8 * 3 * per_layer, 2 * 2 * 64 * 100, 2 * 2 * 8 * 24 * 64 * 3
    assert figures.gemm_peak_share == pytest.approx(gemm / 5e-3 / 100e9)
    assert figures.attention_peak_share == pytest.approx(attention / 0.5e-3 / 50e9)
    least = (gemm + head) / 100e9 + attention / 50e9
    assert figures.step_over_peak_time == pytest.approx(8e-3 / least)
    assert (figures.head_rows, figures.threads, figures.isa) == (2, 3, "clockwork")


def test_an_even_number_of_steps_has_two_in_the_middle(tiny_file: Path) -> None:
    times = [StepTimes(ms, 0.0, 0.0, 0.0, 1.0) for ms in (9.0, 1.0, 2.0, 4.0)]
    subject, _ = subject_of(tiny_file, times, TINY.num_layers)
    (figures,) = measure(subject, plan_for(128, [1], [0], repeats=4), PEAK)
    assert (figures.step_ms, figures.gemm_ms, figures.other_ms) == (4.0, 3.0, 1.0)


def test_a_thinner_model_is_scaled_but_for_its_head(tiny_file: Path) -> None:
    subject, _ = subject_of(tiny_file, [StepTimes(1.0, 2.0, 3.0, 4.0, 5.0)], 6)
    (figures,) = measure(subject, plan_for(128, [1], [0], repeats=1), PEAK)
    assert (figures.gemm_ms, figures.attention_ms, figures.head_ms) == (2.0, 4.0, 3.0)
    assert figures.step_ms == 2 * (1 + 2 + 4 + 5) + 3
    whole, _ = subject_of(tiny_file, [StepTimes(2.0, 4.0, 3.0, 8.0, 10.0)], 3)
    (thick,) = measure(whole, plan_for(128, [1], [0], repeats=1), PEAK)
    assert figures.gemm_peak_share == pytest.approx(2 * thick.gemm_peak_share)


def test_rows_stand_behind_what_was_stored(tiny_file: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(bench, "_STORED_AT_ONCE", 8)
    subject, backend = subject_of(tiny_file, [StepTimes(1, 1, 1, 1, 1)] * 4, 3)
    list(measure(subject, plan_for(128, [1, 4], [20, 0], repeats=1), PEAK))
    stored = [request for request in backend.requests if request.store]
    assert np.concatenate([request.positions for request in stored]).tolist() == list(range(20))
    timed = [request for request in backend.requests if not request.store]
    assert [request.positions.tolist() for request in timed] == [
        *[[0]] * 3,
        *[[0, 1, 2, 3]] * 3,
        *[[20]] * 3,
        *[[20, 21, 22, 23]] * 3,
    ]


def test_default_lists_go_as_far_as_the_model() -> None:
    assert plan_for(40960).contexts == bench.DEFAULT_CONTEXTS
    assert plan_for(300).contexts == (0, 256)
    small = plan_for(20)
    assert (small.rows, small.contexts) == ((1, 8), (0,))


def test_lists_beyond_the_context_are_refused() -> None:
    with pytest.raises(errors.RequestError, match="32 rows behind a context of 100 exceed"):
        plan_for(128, [1, 32], [100])
    assert plan_for(132, [1, 32], [100]).num_measurements == 2


@pytest.mark.parametrize("kind", TYPES)
def test_random_weights_of_every_type_run(kind: str) -> None:
    plan = plan_for(TINY.context_length, [2], [3], repeats=1)
    with opened_shape(TINY, kind, plan, **OPTIONS) as subject:
        (figures,) = measure(subject, plan, PEAK)
    assert figures.type == kind
    assert figures.step_ms > 0


@pytest.mark.parametrize("shape", SHAPES_OF_ALL_KINDS, ids=lambda shape: shape.architecture)
def test_random_files_are_sound(shape: Shape, tmp_path: Path) -> None:
    path, written = tmp_path / "random.gguf", list[int]()
    random_model.write_random_model(path, shape, "q8_0", written.append)
    assert sum(written) == random_model.weight_bytes(shape, "q8_0")
    with load(path, threads=1) as model:
        assert model.info.num_parameters == shape.num_parameters
        logits = model.logits(np.arange(8))
    assert np.isfinite(logits).all()
    assert len(np.unique(logits)) > shape.vocab_size


def test_published_parameter_counts() -> None:
    billions = {name: round(shape.num_parameters / 1e9, 2) for name, shape in SHAPES.items()}
    assert billions == {
        "qwen2.5-0.5b": 0.49,
        "qwen3-0.6b": 0.60,
        "fast-dllm-v2-1.5b": 1.54,
        "sdar-1.7b": 2.03,  # with a head of its own, like the 4B
        "sdar-4b": 4.41,
        "fast-dllm-v2-7b": 7.62,
        "dream-7b": 7.62,
        "llada-8b": 8.02,
        "sdar-8b": 8.19,
        "llada-moe-7b": 7.36,
        "llada2-mini": 16.26,
        "sdar-30b-a3b": 30.53,
    }


@pytest.mark.parametrize("lacking", ["memory", "disk"])
def test_what_does_not_fit_is_refused_with_numbers(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if lacking == "memory":
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**28))
    else:
        monkeypatch.setattr(bench.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**28))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    shape = SHAPES["sdar-8b"]
    with (
        pytest.raises(errors.DoesNotFitError, match=rf"8\.\d GiB of {lacking}, 0\.2 GiB are"),
        opened_shape(shape, "q8_0", plan_for(shape.context_length), **OPTIONS),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_left_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plan = plan_for(TINY.context_length, [1], [0])
    with opened_shape(TINY, "f16", plan, **OPTIONS):
        assert list(tmp_path.iterdir()) == []  # mapped, and gone already

    def interrupt(_: int) -> None:
        assert list(tmp_path.iterdir()) != []
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        opened_shape(TINY, "f16", plan, advance=interrupt, **OPTIONS),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_more_layers_than_the_shape_has_are_refused() -> None:
    with (
        pytest.raises(errors.RequestError, match="4 layers are asked for - the shape has 3"),
        opened_shape(TINY, "f32", plan_for(128), layers=4, **OPTIONS),
    ):
        pass


def test_a_model_without_an_example_answers_random_ids(tiny_file: Path) -> None:
    stats = bench.time_generation(str(tiny_file), **OPTIONS)
    assert stats.tokens == 32
    assert stats.nfe > 0

"""A step that is stopped leaves everything as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge import _native

NUM_LAYERS = 8
LENGTH = 96
CACHED = 24
LONG_AGO_NS = 1

Step = Callable[..., _native.StepOutput]
Content = Callable[[_native.KvCache], list[NDArray[Any]]]


@pytest.fixture(scope="module")
def ids() -> NDArray[np.int32]:
    return np.random.default_rng(6).integers(0, 500, LENGTH).astype(np.int32)


@pytest.fixture(scope="module")
def deep(
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
) -> _native.Denoiser:
    """A model whose time goes into its layers."""
    folder = checkpoint(
        d_model=256, mlp_hidden_size=512, n_layers=NUM_LAYERS, vocab_size=500, weight_tying=True
    )
    return denoiser(converted(folder, "f32"), threads=2)


@pytest.fixture(scope="module")
def wide(
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
) -> _native.Denoiser:
    """A model whose time goes into its head."""
    folder = checkpoint(n_layers=1, vocab_size=20_000, weight_tying=True)
    return denoiser(converted(folder, "f32"), threads=2)


def filled_cache(model: _native.Denoiser, step: Step, ids: NDArray[np.int32]) -> _native.KvCache:
    cache = _native.KvCache(model, LENGTH)
    step(model, ids[:CACHED], head_rows=[], cache=cache, store=True)
    return cache


def assert_unharmed(
    model: _native.Denoiser,
    step: Step,
    content: Content,
    cache: _native.KvCache,
    ids: NDArray[np.int32],
) -> None:
    """The cache is what one filled step makes it, and the model goes on from there."""
    fresh = filled_cache(model, step, ids)
    for one, other in zip(content(cache), content(fresh), strict=True):
        assert np.array_equal(one, other)
    rest = range(CACHED, LENGTH)
    after = step(model, ids[CACHED:], rest, cache=cache, store=True)
    wanted = step(model, ids[CACHED:], rest, cache=fresh, store=True)
    assert np.array_equal(after.log_z, wanted.log_z)
    for one, other in zip(content(cache), content(fresh), strict=True):
        assert np.array_equal(one, other)


def a_set_flag() -> _native.CancelFlag:
    flag = _native.CancelFlag()
    flag.set()
    return flag


@pytest.mark.parametrize("stop", ["cancel", "deadline_ns"])
def test_stopped_before_the_first_layer(
    deep: _native.Denoiser, step: Step, cache_content: Content, ids: NDArray[np.int32], stop: str
) -> None:
    cache = filled_cache(deep, step, ids)
    value = a_set_flag() if stop == "cancel" else LONG_AGO_NS
    output = step(deep, ids, cache=cache, store=True, **{stop: value})
    assert output.cancelled
    assert output.layers_done == 0
    assert len(output.top1) == len(output.log_z) == 0
    assert_unharmed(deep, step, cache_content, cache, ids)


def shrinking_deadlines(full_ns: int) -> Iterator[int]:
    """Deadlines from now, at many shares of a whole step's time."""
    for attempt in range(200):
        yield time.monotonic_ns() + full_ns * (attempt % 10) // 10


def time_of(run: Callable[[], object]) -> int:
    run()
    begin = time.monotonic_ns()
    run()
    return time.monotonic_ns() - begin


def test_deadline_amid_the_layers(
    deep: _native.Denoiser, step: Step, cache_content: Content, ids: NDArray[np.int32]
) -> None:
    full_ns = time_of(lambda: step(deep, ids, head_rows=[]))
    cache = filled_cache(deep, step, ids)
    for deadline_ns in shrinking_deadlines(full_ns):
        output = step(deep, ids, cache=cache, store=True, deadline_ns=deadline_ns)
        if not output.cancelled:
            cache = filled_cache(deep, step, ids)
        elif 0 < output.layers_done < NUM_LAYERS:
            break
    else:
        pytest.fail("no deadline fell between the first and the last layer")
    assert_unharmed(deep, step, cache_content, cache, ids)


@pytest.mark.parametrize("layer", range(NUM_LAYERS))
def test_deadline_in_each_layer(
    deep: _native.Denoiser, step: Step, cache_content: Content, ids: NDArray[np.int32], layer: int
) -> None:
    full_ns = time_of(lambda: step(deep, ids, head_rows=[]))
    cache = filled_cache(deep, step, ids)
    share = (layer - 0.5) / NUM_LAYERS
    for _ in range(400):
        deadline_ns = time.monotonic_ns() + int(full_ns * share)
        output = step(deep, ids, cache=cache, store=True, deadline_ns=deadline_ns)
        if output.cancelled and output.layers_done == layer:
            break
        # Other work on the machine moves the time of a layer; follow it.
        share += 0.1 / NUM_LAYERS * (1 if output.layers_done < layer else -1)
        if not output.cancelled:
            cache = filled_cache(deep, step, ids)
    else:
        pytest.fail(f"no deadline fell behind layer {layer}")
    assert_unharmed(deep, step, cache_content, cache, ids)


def test_deadline_amid_the_head(
    wide: _native.Denoiser, step: Step, cache_content: Content, ids: NDArray[np.int32]
) -> None:
    full_ns = time_of(lambda: step(wide, ids))
    cache = filled_cache(wide, step, ids)
    for deadline_ns in shrinking_deadlines(full_ns):
        output = step(wide, ids, cache=cache, store=True, deadline_ns=deadline_ns)
        if not output.cancelled:
            cache = filled_cache(wide, step, ids)
        elif output.layers_done == 1 and output.head_ns > 0:
            break
    else:
        pytest.fail("no deadline fell into the head")
    assert len(output.top1) == 0
    assert_unharmed(wide, step, cache_content, cache, ids)


def test_flag_set_from_another_thread(
    deep: _native.Denoiser, step: Step, cache_content: Content, ids: NDArray[np.int32]
) -> None:
    flag, cache, started = _native.CancelFlag(), filled_cache(deep, step, ids), threading.Event()

    def work() -> None:
        rest = range(CACHED, LENGTH)
        while not step(deep, ids[CACHED:], rest, cache=cache, cancel=flag).cancelled:
            started.set()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    assert started.wait(60)
    flag.set()
    worker.join(60)
    assert not worker.is_alive()
    assert flag.is_set()
    assert_unharmed(deep, step, cache_content, cache, ids)


def test_a_deadline_far_away_does_not_stop(
    deep: _native.Denoiser, step: Step, ids: NDArray[np.int32]
) -> None:
    output = step(deep, ids, deadline_ns=time.monotonic_ns() + 10**12, cancel=_native.CancelFlag())
    assert not output.cancelled
    assert output.layers_done == NUM_LAYERS
    assert len(output.top1) == LENGTH


def test_the_parts_of_a_step_s_time(
    deep: _native.Denoiser, step: Step, ids: NDArray[np.int32]
) -> None:
    begin = time.monotonic_ns()
    output = step(deep, ids)
    elapsed_ns = time.monotonic_ns() - begin
    parts = (output.gemm_ns, output.attention_ns, output.head_ns, output.other_ns)
    assert min(parts) > 0
    assert sum(parts) <= elapsed_ns
    assert output.quantize_ns == 0  # float weights meet float activations
    assert step(deep, ids, head_rows=[]).head_ns == 0


def test_quantizing_activations_is_a_part_of_its_own(
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    step: Step,
    ids: NDArray[np.int32],
) -> None:
    path = converted(checkpoint(vocab_size=500), "q8_0")
    assert step(denoiser(path), ids).quantize_ns > 0
    assert step(denoiser(path, activations="f32"), ids).quantize_ns == 0

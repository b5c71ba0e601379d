"""What a step refuses before it computes anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import _native
from edge.formats.experts import Experts

VOCAB = 40
CONTEXT = 128

GOOD: dict[str, Any] = {"ids": [1, 2, 3], "positions": [4, 5, 9], "head_rows": [0, 2]}


@pytest.fixture(scope="module")
def model(
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
) -> _native.Denoiser:
    return denoiser(converted(checkpoint(n_layers=1, n_kv_heads=2), "q8_0"))


def run(model: _native.Denoiser, **changes: Any) -> _native.StepOutput:
    given = GOOD | changes
    arrays = [np.asarray(given.pop(name), np.int32) for name in ("ids", "positions", "head_rows")]
    return model.step(*arrays, **given)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ids": [], "positions": [], "head_rows": []}, "at least one"),
        ({"ids": [1, 2]}, "as many positions as ids"),
        ({"positions": [4, 5]}, "as many positions as ids"),
        ({"ids": [1, -1, 3]}, "outside the vocabulary"),
        ({"ids": [1, VOCAB, 3]}, "outside the vocabulary"),
        ({"positions": [5, 4, 9]}, "must ascend"),
        ({"positions": [4, 4, 9]}, "must ascend"),
        ({"positions": [-1, 5, 9]}, "outside the model's context"),
        ({"positions": [4, 5, CONTEXT]}, "outside the model's context"),
        ({"head_rows": [2, 0]}, "head rows must not descend"),
        ({"head_rows": [0, 3]}, "head rows must not descend and be active"),
        ({"head_rows": [-1]}, "head rows must not descend and be active"),
        ({"store": True}, "storing needs a cache"),
        ({"head": _native.HeadOptions(temperature=-1.0)}, "temperature"),
        ({"head": _native.HeadOptions(temperature=float("nan"))}, "temperature"),
        ({"head": _native.HeadOptions(temperature=float("inf"))}, "temperature"),
        ({"ids": [[1, 2, 3]]}, "one-dimensional"),
    ],
)
def test_impossible_steps(model: _native.Denoiser, changes: dict[str, Any], problem: str) -> None:
    assert not run(model).cancelled
    with pytest.raises(ValueError, match=problem):
        run(model, **changes)


def test_when_nothing_may_be_chosen_the_caller_is_at_fault(model: _native.Denoiser) -> None:
    nothing = _native.HeadOptions(num_choices=1, forbidden=[0])
    with pytest.raises(ValueError, match=r"forbid|choose|choice"):
        run(model, head=nothing)


def test_a_position_beyond_the_cache(model: _native.Denoiser) -> None:
    assert not run(model, cache=_native.KvCache(model, 10)).cancelled
    with pytest.raises(ValueError, match="beyond the cache"):
        run(model, cache=_native.KvCache(model, 9))


def test_another_denoiser_s_cache(
    model: _native.Denoiser,
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
) -> None:
    for changes in ({"n_layers": 2, "n_kv_heads": 2}, {"n_layers": 1, "n_kv_heads": 4}):
        other = denoiser(converted(checkpoint(**changes)))
        with pytest.raises(ValueError, match="made for another denoiser"):
            run(model, cache=_native.KvCache(other, 20))


@pytest.mark.parametrize("capacity", [-1, 0, CONTEXT + 1])
def test_cache_capacity(model: _native.Denoiser, capacity: int) -> None:
    assert len(_native.KvCache(model, CONTEXT).valid()) == CONTEXT
    with pytest.raises(ValueError, match="capacity"):
        _native.KvCache(model, capacity)


@pytest.mark.parametrize("position", [-1, 20])
def test_a_slot_that_does_not_exist(model: _native.Denoiser, position: int) -> None:
    cache = _native.KvCache(model, 20)
    for read in (cache.keys, cache.values):
        with pytest.raises(IndexError, match="beyond the cache"):
            read(position)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint32, np.bool_])
def test_wrong_dtypes(model: _native.Denoiser, place: int, dtype: type) -> None:
    arrays: list[Any] = [np.array([0, 1], np.int32) for _ in range(3)]
    arrays[place] = arrays[place].astype(dtype)
    with pytest.raises(TypeError):
        model.step(*arrays)
    with pytest.raises(TypeError):
        model.logits(arrays[place])


@pytest.mark.parametrize("ids", [[0, VOCAB], [-1], [], list(range(CONTEXT + 1))])
def test_logits_of_impossible_ids(model: _native.Denoiser, ids: list[int]) -> None:
    with pytest.raises(ValueError, match=r"vocabulary|at least one|context"):
        model.logits(np.array(ids, np.int32))


@pytest.mark.parametrize("mask", [("diagonal",), ("block",), ("block", 0), ("block", -4), ("",)])
def test_masks_that_do_not_exist(mask: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="mask is"):
        _native.AttentionMask(*mask)


@pytest.mark.parametrize("threads", [-1, 0, 1025])
def test_number_of_threads(
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    threads: int,
) -> None:
    with pytest.raises(ValueError, match="threads"):
        denoiser(converted(checkpoint()), threads=threads)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hidden_size": 0}, "size"),
        ({"vocab_size": 1 << 29}, "size"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"head_dim": 15}, "head_dim"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_pairs": "thirds"}, "rope pairs"),
        ({"rope_frequencies": [1.0]}, "rope_frequencies"),
        ({"rope_magnitude": 0.0}, "rope_magnitude"),
        ({"query_scale": -1.0}, "query_scale"),
        ({"query_scale_length": 0}, "its length"),
        ({"rotary_dims": 15}, "rotary_dims"),
        ({"rotary_dims": 18}, "rotary_dims"),
    ],
)
def test_shapes_that_cannot_be(changes: dict[str, Any], problem: str) -> None:
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "num_layers": 1,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 16,
        "feed_forward_size": 96,
        "vocab_size": VOCAB,
        "context_length": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "rope_pairs": "halves",
    }
    _native.DenoiserShape(**shape)
    with pytest.raises(ValueError, match=problem):
        _native.DenoiserShape(**shape | changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_experts": 0}, "num_experts"),
        ({"num_used": 9}, "num_used"),
        ({"size": 0}, "size"),
        ({"shared_size": -1}, "size"),
        ({"num_groups": 3}, "num_groups"),
        ({"num_used_groups": 5}, "num_groups"),
        ({"num_groups": 8, "num_used_groups": 4}, "groups of two"),
        ({"num_used": 5}, "groups of two"),
        ({"scores": "hardmax"}, "scores"),
        ({"scale": float("nan")}, "scale"),
    ],
)
def test_experts_that_cannot_be(changes: dict[str, Any], problem: str) -> None:
    experts = asdict(Experts(8, 2, 32, num_groups=4, num_used_groups=2))
    _native.ExpertShape(**experts)
    with pytest.raises(ValueError, match=problem):
        _native.ExpertShape(**experts | changes)


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"activations": "int4"}, "activations"), ({"isa": "sse2"}, r"sse2|avx|generic")],
)
def test_options_that_do_not_exist(
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    options: dict[str, Any],
    problem: str,
) -> None:
    with pytest.raises(ValueError, match=problem):
        denoiser(converted(checkpoint()), **options)


def test_a_file_opened_without_its_tensors(
    checkpoint: Callable[..., Path], converted: Callable[..., Path]
) -> None:
    file = _native.ModelFile(str(converted(checkpoint())), map_tensors=False)
    shape = _native.DenoiserShape(
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        head_dim=16,
        feed_forward_size=96,
        vocab_size=VOCAB,
        context_length=CONTEXT,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        rope_pairs="halves",
    )
    with pytest.raises(ValueError, match="without its tensors"):
        _native.Denoiser(file, shape, 1)

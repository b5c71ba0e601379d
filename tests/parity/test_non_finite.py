"""Numbers that stop being finite are reported where they do, and harm nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge import _native
from edge.formats.gguf_file import read_header

IDS = [1, 2, 3, 4]
VOCAB = 40
Step = Callable[..., _native.StepOutput]
Damaged = Callable[..., Path]


@pytest.fixture
def damaged(
    checkpoint: Callable[..., Path], converted: Callable[..., Path], tmp_path: Path
) -> Damaged:
    """``damaged("f32", "output_norm.weight", 3, nan)``: a file with that value in the tensor.

    In a quantized tensor the index counts groups, and the value becomes the group's scale.
    """

    def make(type: str, tensor: str, index: int, value: float) -> Path:
        path = Path(shutil.copy(converted(checkpoint(), type), tmp_path / "damaged.gguf"))
        info = read_header(path).tensors[tensor]
        stride, dtype = {"f32": (4, np.float32), "q8_0": (34, np.float16)}[info.type]
        with path.open("r+b") as file:
            file.seek(info.offset + index * stride)
            file.write(np.array(value, dtype).tobytes())
        return path

    return make


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type", ["f32", "q8_0"])
@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        ("token_embd.weight", "layer 0"),
        ("blk.0.attn_norm.weight", "layer 0"),
        ("blk.1.attn_norm.weight", "layer 1"),
        ("blk.1.attn_q.weight", "layer 1"),
        ("blk.1.attn_k.weight", "layer 1"),
        ("blk.1.attn_v.weight", "layer 1"),
        ("blk.1.attn_output.weight", "feed-forward part of layer 1"),
        ("blk.1.ffn_norm.weight", "feed-forward part of layer 1|final norm"),
        ("blk.1.ffn_gate.weight", "feed-forward part of layer 1|final norm"),
        ("blk.1.ffn_down.weight", "final norm"),
        ("output_norm.weight", "final norm|head"),
        ("output.weight", "head"),
    ],
)
def test_the_message_names_the_place(
    damaged: Damaged, tensor: str, place: str, type: str, value: float, activations: str
) -> None:
    index = 2 if tensor == "token_embd.weight" and type == "q8_0" else 70  # a part of id 1's row
    path = damaged(type, tensor, 20 if "norm" in tensor else index, value)
    with edge.load(path, activations=activations) as model:
        with pytest.raises(edge.NumericError, match=place) as caught:
            model.generate_ids(IDS, max_tokens=2)
        assert caught.value.path == str(path)


@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        ("blk.1.attn_norm.weight", "layer 1"),
        ("output_norm.weight", "final norm|head"),
        ("output.weight", "head"),
    ],
)
def test_logits_are_not_handed_out_either(damaged: Damaged, tensor: str, place: str) -> None:
    with (
        edge.load(damaged("f32", tensor, 20, np.nan)) as model,
        pytest.raises(edge.NumericError, match=place),
    ):
        model.logits(IDS)


@pytest.mark.parametrize("row", [0, 15, 16, 31, 32, VOCAB - 1])
def test_any_logit_that_is_not_finite_is_seen(damaged: Damaged, row: int) -> None:
    with edge.load(damaged("f32", "output.weight", row * 64, np.nan)) as model:
        for temperature in (0.0, 1.0):
            with pytest.raises(edge.NumericError, match="head"):
                model.generate_ids(IDS, max_tokens=1, temperature=temperature)


def test_a_failed_step_leaves_the_cache_and_the_model_as_they_were(
    damaged: Damaged,
    denoiser: Callable[..., _native.Denoiser],
    step: Step,
    cache_content: Callable[[_native.KvCache], list[NDArray[Any]]],
) -> None:
    broken_id = 30
    model = denoiser(damaged("f32", "token_embd.weight", broken_id * 64, np.nan))
    cache = _native.KvCache(model, 16)
    step(model, IDS, cache=cache, store=True)
    before = cache_content(cache)
    with pytest.raises(_native.NumericFault, match="layer 0"):
        step(model, [broken_id], [4], cache=cache, store=True)
    for one, other in zip(before, cache_content(cache), strict=True):
        assert np.array_equal(one, other)
    assert np.isfinite(step(model, [5], [4], cache=cache).log_z).all()


@pytest.mark.parametrize("kv", ["f32", "bf16", "int8"])
def test_what_a_failed_step_wrote_is_cleared(
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    step: Step,
    tmp_path: Path,
    kv: str,
) -> None:
    """Values overflow for every token but one, whose embedding is zero."""
    path = Path(shutil.copy(converted(checkpoint(), "f32"), tmp_path / "overflows.gguf"))
    tensors = read_header(path).tensors
    values, embedding = tensors["blk.1.attn_v.weight"], tensors["token_embd.weight"]
    with path.open("r+b") as file:
        file.seek(values.offset)
        file.write(np.full(values.num_bytes // 4, 3e38, np.float32).tobytes())
        file.seek(embedding.offset + 7 * embedding.num_bytes // embedding.shape[0])
        file.write(bytes(embedding.num_bytes // embedding.shape[0]))
    model = denoiser(path, kv=kv)
    cache = _native.KvCache(model, 16)
    with pytest.raises(_native.NumericFault):
        step(model, IDS, cache=cache, store=True)
    assert not cache.valid().any()
    for position in range(3):  # the others of their block are what the failed step wrote
        step(model, [7], [position], cache=cache, store=True)
    assert cache.valid().sum() == 3

"""Logits against the numpy twin: every type, both kinds of activations, all sorts of shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy_twin
import pytest
from numpy.typing import NDArray

from edge import _native
from edge.formats.gguf_file import read_header

BOUND = 1e-3
TYPES = ("f32", "f16", "bf16", "int8", "int4", "q8_0", "q4_0")
SHAPES: dict[str, dict[str, Any]] = {
    "head_dim_16": {},
    "grouped_queries": {"n_kv_heads": 2},
    "one_kv_head": {"n_kv_heads": 1},
    "tied_head": {"weight_tying": True},
    "tied_padded_head": {"weight_tying": True, "embedding_size": 53},
    "padded_rows": {"embedding_size": 53},
    "head_dim_24": {"d_model": 96, "mlp_hidden_size": 160},
    "head_dim_40": {"d_model": 160, "n_kv_heads": 2},
    "uneven_columns": {"d_model": 72, "n_heads": 3, "n_kv_heads": 1},
    "uneven_feed_forward": {"mlp_hidden_size": 100},
    "one_long_head": {"d_model": 40, "n_heads": 1, "n_kv_heads": 1, "mlp_hidden_size": 33},
    "one_group_of_128": {"d_model": 128, "mlp_hidden_size": 384},
    "positions": {"learned_position_table": True, "n_kv_heads": 2},
}
GOLDEN = ("llada", "sudoku")


@pytest.fixture
def source(
    request: pytest.FixtureRequest,
    golden: Callable[[str], Path],
    checkpoint: Callable[..., Path],
) -> Path:
    """A golden checkpoint or a random one of ``SHAPES``, by name."""
    name = request.param
    return golden(name) if name in GOLDEN else checkpoint(**SHAPES[name])


def some_ids(count: int) -> NDArray[np.int32]:
    return np.random.default_rng(count).integers(0, 10, count).astype(np.int32)


everywhere = pytest.mark.parametrize("source", [*GOLDEN, *SHAPES], indirect=True)


@everywhere
def test_f32_file_gives_the_checkpoint_s_logits(
    source: Path,
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    from_checkpoint: Callable[[Path], Any],
) -> None:
    """From the checkpoint itself, so that the order of q and k rows is checked too."""
    ids = some_ids(45)
    wanted = numpy_twin.forward(from_checkpoint(source), ids, numpy_twin.Plain())
    assert np.abs(denoiser(converted(source)).logits(ids) - wanted).max() < BOUND


@everywhere
@pytest.mark.parametrize("type", TYPES)
def test_float_activations_give_the_stored_weights_logits(
    source: Path,
    type: str,
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    from_gguf: Callable[[Path], Any],
) -> None:
    path, ids = converted(source, type), some_ids(37)
    wanted = numpy_twin.forward(from_gguf(path), ids, numpy_twin.Plain())
    logits = denoiser(path, activations="f32").logits(ids)
    assert np.abs(logits - wanted).max() < BOUND


@everywhere
@pytest.mark.parametrize("type", ["int8", "int4", "q8_0", "q4_0"])
def test_int8_activations_round_as_described(
    source: Path,
    type: str,
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    from_gguf: Callable[[Path], Any],
) -> None:
    path, ids = converted(source, type), some_ids(81)
    net = from_gguf(path)
    exactly = numpy_twin.AsEngine(int8=True, quantized=net.is_quantized)
    wanted = numpy_twin.forward(net, ids, exactly)
    logits = denoiser(path, activations="int8").logits(ids)
    assert np.abs(logits - wanted).max() < BOUND


@pytest.mark.parametrize("type", TYPES)
def test_operations_are_in_the_order_that_kernels_h_promises(
    golden: Callable[[str], Path],
    type: str,
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    from_gguf: Callable[[Path], Any],
) -> None:
    path, ids = converted(golden("llada"), type), some_ids(37)
    net = from_gguf(path)
    for activations in ("int8", "f32"):
        exactly = numpy_twin.AsEngine(int8=activations == "int8", quantized=net.is_quantized)
        wanted = numpy_twin.forward(net, ids, exactly)
        assert np.array_equal(denoiser(path, activations=activations).logits(ids), wanted)


@pytest.mark.parametrize("mask", ["causal", "block 1 0", "block 5 0", "block 7 3", "block 64 10"])
@pytest.mark.parametrize("type", ["f32", "q8_0"])
def test_masks(
    mask: str,
    type: str,
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    from_gguf: Callable[[Path], Any],
) -> None:
    kind, *numbers = mask.split()
    sizes = [int(number) for number in numbers]
    path, ids = converted(checkpoint(n_kv_heads=2), type), some_ids(37)
    net = from_gguf(path)
    exactly = numpy_twin.AsEngine(int8=True, quantized=net.is_quantized)
    wanted = numpy_twin.forward(net, ids, exactly, numpy_twin.Mask(kind, *sizes))
    logits = denoiser(path).logits(ids, _native.AttentionMask(kind, *sizes))
    assert np.abs(logits - wanted).max() < BOUND
    assert np.abs(logits - denoiser(path).logits(ids)).max() > 0.1  # the mask masks


def test_uneven_columns_stay_f16(
    checkpoint: Callable[..., Path], converted: Callable[..., Path]
) -> None:
    """The shapes above do hold what their names say."""
    types = {
        name: {tensor.type for tensor in read_header(path).tensors.values()}
        for name in ("uneven_columns", "uneven_feed_forward", "head_dim_24")
        if (path := converted(checkpoint(**SHAPES[name]), "q8_0"))
    }
    assert types["uneven_columns"] == {"f32", "f16", "q8_0"}
    assert types["uneven_feed_forward"] == {"f32", "f16", "q8_0"}
    assert types["head_dim_24"] == {"f32", "q8_0"}

"""What keys of experts mean, their defaults, and which values cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from edge.config import ModelConfig, read_config
from edge.errors import EdgeError, ModelFileError, UnsupportedModelError
from edge.formats import keys
from edge.formats.experts import Experts
from edge.formats.gguf_file import Header

SIZES = {
    "context_length": 128,
    "embedding_length": 64,
    "block_count": 3,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "vocab_size": 40,
    "expert_count": 16,
    "expert_used_count": 4,
    "expert_feed_forward_length": 32,
}


def read(architecture: str, **changes: Any) -> ModelConfig:
    """``changes`` with underscores for points; None leaves a key out."""
    told = SIZES | {key.replace("__", "."): value for key, value in changes.items()}
    metadata = {f"{architecture}.{key}": value for key, value in told.items() if value is not None}
    metadata |= {"general.architecture": architecture, "tokenizer.ggml.mask_token_id": 1}
    return read_config(Header("a.gguf", metadata, {}, 0, 0))


def experts(architecture: str, **changes: Any) -> Experts:
    found = read(architecture, **changes).denoiser.experts
    assert found is not None
    return found


def test_public_files_need_not_tell_the_router() -> None:
    assert experts("llada-moe") == Experts(16, 4, 32)
    assert experts("rnd1") == Experts(16, 4, 32, renormalises=True)
    assert read("rnd1").diffusion.shift_logits
    assert not read("llada-moe").diffusion.shift_logits


def test_the_whole_width_is_shared_out_where_no_other_is_told() -> None:
    changes = {"expert_feed_forward_length": None, "feed_forward_length": 200}
    assert experts("llada-moe", **changes).size == 50


def test_all_keys() -> None:
    found = experts(
        "edge-bailingmoe2",
        feed_forward_length=96,
        expert_shared_count=2,
        leading_dense_block_count=1,
        expert_gating_func=2,
        expert_weights_norm=True,
        expert_weights_scale=2.5,
        expert_group_count=4,
        expert_group_used_count=2,
    )
    assert found == Experts(16, 4, 32, 64, 1, "sigmoid", True, False, 2.5, 4, 2)
    assert experts("edge-qwen3moe", expert_shared_feed_forward_length=48).shared_size == 48


def test_weights_that_a_row_meets_and_that_rows_touch() -> None:
    denoiser = read("edge-qwen3moe").denoiser
    attention, router, expert = 4 * 64 * 64, 64 * 16, 3 * 64 * 32
    assert denoiser.linear_weights == 3 * (attention + router + 4 * expert)
    assert denoiser.touched_weights(1) == denoiser.linear_weights
    assert denoiser.touched_weights(1000) == pytest.approx(3 * (attention + router + 16 * expert))


def test_no_rows_of_a_mixture_are_gated() -> None:
    metadata = {f"edge-qwen3moe.{key}": value for key, value in SIZES.items()}
    metadata |= {"general.architecture": "edge-qwen3moe", "tokenizer.ggml.mask_token_id": 1}
    metadata |= {keys.GATE_RANK: 4, "diffusion.attention": "causal_context"}
    with pytest.raises(UnsupportedModelError, match="without experts"):
        read_config(Header("a.gguf", metadata, {}, 0, 0))


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"expert_count": None}, ModelFileError, "expert_count"),
        ({"expert_count": 1 << 17}, ModelFileError, "expert_count"),
        ({"expert_used_count": 17}, ModelFileError, "expert_used_count"),
        ({"expert_used_count": 0}, ModelFileError, "expert_used_count"),
        ({"expert_feed_forward_length": None}, ModelFileError, "feed_forward_length"),
        ({"expert_gating_func": 3}, UnsupportedModelError, "expert_gating_func"),
        ({"expert_weights_scale": 0.0}, ModelFileError, "expert_weights_scale"),
        ({"expert_weights_norm": 1}, ModelFileError, "expert_weights_norm"),
        ({"expert_group_count": 3}, ModelFileError, "expert_group_count"),
        (
            {"expert_group_count": 8, "expert_group_used_count": 1},
            ModelFileError,
            "expert_group_used_count",
        ),
        (
            {"expert_group_count": 16, "expert_group_used_count": 8},
            ModelFileError,
            "expert_group_used_count",
        ),
        ({"leading_dense_block_count": 3}, ModelFileError, "leading_dense_block_count"),
        ({"leading_dense_block_count": 1}, ModelFileError, "feed_forward_length"),
        ({"rope__dimension_count": 15}, ModelFileError, "rope.dimension_count"),
        ({"rope__dimension_count": 18}, ModelFileError, "rope.dimension_count"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], error: type[EdgeError], named: str) -> None:
    with pytest.raises(error, match=named):
        read("edge-bailingmoe2", **changes)

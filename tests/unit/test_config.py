"""What a model file says: read once, checked before anything depends on it."""

from __future__ import annotations

from typing import Any

import pytest

from edge.config import ModelConfig, read_config
from edge.errors import EdgeError, ModelFileError, UnsupportedModelError
from edge.formats.gguf_file import Header

ABSENT = object()
SIZES = (
    "llada.context_length",
    "llada.embedding_length",
    "llada.block_count",
    "llada.feed_forward_length",
    "llada.attention.head_count",
    "llada.vocab_size",
)
REQUIRED = (
    *SIZES,
    "llada.attention.layer_norm_rms_epsilon",
    "general.architecture",
    "tokenizer.ggml.mask_token_id",
)


def read(metadata: dict[str, Any], **changes: Any) -> ModelConfig:
    """With ``__`` for dots in the changes' names."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    whole = {key: value for key, value in (metadata | named).items() if value is not ABSENT}
    return read_config(Header("model.gguf", whole, {}, 0, 0))


def test_a_whole_file(metadata: dict[str, Any]) -> None:
    config = read(metadata)
    assert config.name == "scripted"
    assert config.num_tokens == 258
    assert config.task is None
    assert config.denoiser.head_dim == 4
    assert config.denoiser.num_kv_heads == 2
    assert config.diffusion.block_length == 4
    assert config.diffusion.eos_ids == (257,)


def test_defaults(metadata: dict[str, Any]) -> None:
    optional = ("general.name", "diffusion.block_length", "diffusion.eos_ids", "edge.num_tokens")
    config = read(metadata, **{key.replace(".", "__"): ABSENT for key in optional})
    assert config.name == "llada"
    assert config.num_tokens == 264
    assert config.denoiser.rope_theta == 10000.0
    diffusion = config.diffusion
    assert (diffusion.noise, diffusion.attention, diffusion.canvas) == ("mask", "full", "append")
    assert (diffusion.block_length, diffusion.steps_per_block) == (32, None)
    assert (diffusion.sampler, diffusion.threshold) == ("low_confidence_static", 0.9)
    assert (diffusion.eos_ids, diffusion.canvas_length, diffusion.in_place) == ((), None, False)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key(metadata: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelFileError, match=f"key '{key}' is missing") as caught:
        read(metadata, **{key.replace(".", "__"): ABSENT})
    assert caught.value.path == "model.gguf"


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("value", [0, -1, 1 << 29, 2.0, "8", True, None])
def test_impossible_sizes(metadata: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(ModelFileError, match=f"{key}' is .*not a whole number"):
        read(metadata, **{key.replace(".", "__"): value})


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("llada.attention.head_count_kv", 3, "does not divide 2 heads"),
        ("llada.attention.key_length", 5, "even number"),
        ("llada.attention.layer_norm_rms_epsilon", 0.0, "above 0"),
        ("llada.attention.layer_norm_rms_epsilon", float("nan"), "above 0"),
        ("llada.attention.layer_norm_rms_epsilon", 2.0, "up to 1"),
        ("llada.attention.layer_norm_rms_epsilon", "1e-5", "above 0"),
        ("llada.rope.freq_base", float("inf"), "above 0"),
        ("llada.rope.freq_base", -1.0, "above 0"),
        ("diffusion.block_length", 0, "whole number"),
        ("diffusion.steps_per_block", -1, "whole number"),
        ("diffusion.threshold", 0.0, "above 0"),
        ("diffusion.threshold", 1.5, "up to 1"),
        ("diffusion.sampler", 5, "not a string"),
        ("diffusion.canvas", True, "not a string"),
        ("diffusion.shift_logits", 1, "true or false"),
        ("diffusion.eos_ids", [264], "below 264"),
        ("diffusion.eos_ids", [-1], "below 264"),
        ("diffusion.eos_ids", 5, "list of token ids"),
        ("diffusion.eos_ids", ["x"], "list of token ids"),
        ("tokenizer.ggml.mask_token_id", 264, "whole number from 0 to 263"),
        ("tokenizer.ggml.mask_token_id", -1, "whole number"),
        ("edge.num_tokens", 265, "whole number from 1 to 264"),
        ("edge.num_tokens", 0, "whole number"),
        ("edge.task", 5, "not a string"),
        ("general.name", 5, "not a string"),
        ("general.architecture", 5, "not a string"),
    ],
)
def test_impossible_values(metadata: dict[str, Any], key: str, value: Any, problem: str) -> None:
    with pytest.raises(ModelFileError, match=f"key '{key}' is .*{problem}") as caught:
        read(metadata, **{key: value})
    assert repr(value).strip("[]'")[:4] in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", "gpt2"),
        ("general.architecture", ""),
        ("diffusion.noise", "absorbing"),
        ("diffusion.attention", "sideways"),
        ("diffusion.canvas", "spiral"),
        ("llada.attention.value_length", 2),
    ],
)
def test_what_this_version_does_not_run(metadata: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="this version runs") as caught:
        read(metadata, **{key: value})
    assert repr(value) in str(caught.value)


def test_in_place_needs_a_canvas_length(metadata: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=r"diffusion\.canvas_length' is missing"):
        read(metadata, diffusion__canvas="in_place")
    with pytest.raises(ModelFileError, match="from 1 to 128"):
        read(metadata, diffusion__canvas="in_place", diffusion__canvas_length=129)
    config = read(metadata, diffusion__canvas="in_place", diffusion__canvas_length=81)
    assert config.diffusion.in_place
    assert config.diffusion.canvas_length == 81


def test_head_dim_need_not_be_a_share_of_the_hidden_size(metadata: dict[str, Any]) -> None:
    assert read(metadata, llada__attention__key_length=6).denoiser.head_dim == 6
    with pytest.raises(EdgeError, match="key_length"):
        read(metadata, llada__attention__head_count=16)  # 8 // 16 is no head


def test_one_end_token_by_the_older_key(metadata: dict[str, Any]) -> None:
    config = read(metadata, diffusion__eos_ids=ABSENT, tokenizer__ggml__eos_token_id=7)
    assert config.diffusion.eos_ids == (7,)
    config = read(metadata, tokenizer__ggml__eos_token_id=7)
    assert config.diffusion.eos_ids == (257,)
    with pytest.raises(ModelFileError, match="eos_token_id' is 264"):
        read(metadata, diffusion__eos_ids=ABSENT, tokenizer__ggml__eos_token_id=264)


@pytest.mark.parametrize(
    ("architecture", "pairs"), [("llada", "adjacent"), ("edge-llama", "halves")]
)
def test_the_architecture_decides_the_rotation(
    metadata: dict[str, Any], architecture: str, pairs: str
) -> None:
    renamed = {key.replace("llada.", f"{architecture}."): v for key, v in metadata.items()}
    config = read(renamed, general__architecture=architecture)
    assert config.denoiser.rope_pairs == pairs

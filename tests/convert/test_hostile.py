"""Damaged and hostile checkpoints: each is converted or refused with a typed one-line error."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from convert.checkpoint import open_checkpoint
from convert.models import build_spec
from convert.models.base import Choices, Spec
from edge.errors import EdgeError, ModelFileError

Make = Callable[..., Any]  # conftest.folder

SAME_FOLDER = [HealthCheck.function_scoped_fixture]  # every example writes over the last one


def refused_or_read(source: Path) -> Spec | None:
    """The spec, or None when the checkpoint was refused with one line."""
    refusal = ""
    spec = None
    try:
        spec = build_spec(open_checkpoint(source), Choices())
    except EdgeError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 20_000
    return spec


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=SAME_FOLDER)
@given(st.binary(max_size=200))
@example(b"{" * 10_000)
@example(b'{"architectures": ["LLaDAModelLM"], "d_model": ' + b"1" * 4400 + b"}")
@example(b'{"architectures": ["' + b"\\n" * 900 + b'"]}')
def test_any_bytes_as_config(damaged: Any, content: bytes) -> None:
    (damaged.path / "config.json").write_bytes(content)
    assert refused_or_read(damaged.path) is None


KEYS = [
    "architectures",
    "d_model",
    "n_heads",
    "n_kv_heads",
    "n_layers",
    "mlp_hidden_size",
    "mlp_ratio",
    "vocab_size",
    "max_sequence_length",
    "rope",
    "rope_theta",
    "rms_norm_eps",
    "layer_norm_type",
    "activation_type",
    "block_type",
    "weight_tying",
    "mask_token_id",
    "eos_token_id",
    "pad_token_id",
    "embedding_size",
    "diffusion",
    "clip_qkv",
    "alibi",
    "learned_position_table",
    "multi_query_attention",
]
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=SAME_FOLDER)
@given(st.sampled_from(KEYS), JSON_VALUES | st.integers(-1, 70))
@example("diffusion", {"\n": 1})
@example("n_layers", 4096)
def test_any_value_of_any_key(damaged: Any, key: str, value: object) -> None:
    (damaged.path / "config.json").write_text(json.dumps(damaged.config | {key: value}))
    spec = refused_or_read(damaged.path)
    if spec is not None:
        checkpoint = open_checkpoint(damaged.path)
        for tensor in spec.tensors:
            assert tensor.load(checkpoint).shape == tensor.shape


DENSE_KEYS = [
    "architectures",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "intermediate_size",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "use_sliding_window",
    "sliding_window",
    "layer_types",
    "quantization_config",
    "block_size",
    "bd_size",
    "small_block_size",
    "sub_block_size",
    "mask_token_id",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "diffusion",
]
CLASSES = ["DreamModel", "A2DQwen3LMHeadModel", "SDARForCausalLM", "Fast_dLLM_QwenForCausalLM"]
WORDS = st.sampled_from(["full", "block", "default", "silu", "full_attention", "Qwen3ForCausalLM"])
SECTIONS = st.dictionaries(
    st.sampled_from(
        [
            "rope_type",
            "type",
            "rope_theta",
            "attention",
            "block_length",
            "sub_block_length",
            "canvas",
        ]
    ),
    WORDS | JSON_VALUES | st.integers(-1, 70),
    max_size=3,
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=SAME_FOLDER)
@given(
    st.sampled_from(CLASSES),
    st.dictionaries(
        st.sampled_from(DENSE_KEYS),
        JSON_VALUES | SECTIONS | WORDS | st.integers(-1, 70) | st.lists(WORDS, max_size=2),
        min_size=1,
        max_size=3,
    ),
)
@example("SDARForCausalLM", {"rope_parameters": {"rope_theta": 2**70}, "rope_theta": True})
@example("DreamModel", {"num_hidden_layers": 4096})
@example("A2DQwen3LMHeadModel", {"head_dim": 2**20, "num_attention_heads": 16384})
def test_any_values_of_any_dense_keys(
    dense_folders: dict[str, Any], name: str, changes: dict[str, Any]
) -> None:
    made = dense_folders[name]
    (made.path / "config.json").write_text(json.dumps(made.config | changes))
    spec = refused_or_read(made.path)
    if spec is not None:
        checkpoint = open_checkpoint(made.path)
        for tensor in spec.tensors:
            assert tensor.load(checkpoint).shape == tensor.shape
        entries = {entry.key: entry.value for entry in spec.entries}
        assert entries["diffusion.block_length"] <= made.config["max_position_embeddings"] or (
            "max_position_embeddings" in changes
        )


@pytest.fixture
def dense_folders(dense: Make) -> dict[str, Any]:
    made = {name: dense(name, folder=name, num_hidden_layers=1) for name in CLASSES}
    for folder in made.values():
        folder.write()
    return made


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=SAME_FOLDER)
@given(
    st.sampled_from(["tokenizer_config", "added_tokens", "generation_config"]),
    st.dictionaries(
        st.sampled_from(["mask_token", "added_tokens_decoder", "eos_token_id", "<|mask|>"]),
        JSON_VALUES | st.dictionaries(st.sampled_from(["1", "-1", "content"]), JSON_VALUES),
    ),
)
def test_any_content_of_the_small_files(damaged: Any, name: str, content: object) -> None:
    for path in damaged.path.glob("*n*.json"):
        if path.name != "config.json":
            path.unlink()
    (damaged.path / f"{name}.json").write_text(json.dumps(content))
    refused_or_read(damaged.path)


@pytest.fixture
def damaged(folder: Make) -> Any:
    made = folder(d_model=16, n_heads=2, n_kv_heads=2, n_layers=1, mlp_hidden_size=16)
    made.write()
    return made


def test_flipped_bytes_in_the_safetensors_header(damaged: Any) -> None:
    path = damaged.path / "model.safetensors"
    data = path.read_bytes()
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    choose = random.Random(11)
    refused = 0
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(choose.choice([1, 1, 2, 5])):
            changed[choose.randrange(header_bytes)] = choose.randrange(256)
        path.write_bytes(changed)
        refused += refused_or_read(damaged.path) is None
    assert refused > 300


def test_two_tensors_of_one_name_are_refused(damaged: Any) -> None:
    path = damaged.path / "model.safetensors"
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f'{{"x":{entry},"x":{entry}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelFileError, match=r'"x" occurs twice|not a sound safetensors file'):
        open_checkpoint(damaged.path)


@pytest.mark.parametrize("shape", [(0,), (40, 0), (0, 16), (), (1, 40, 16), (16, 40)])
def test_tensors_of_odd_shapes_are_refused(damaged: Any, shape: tuple[int, ...]) -> None:
    for name in ("wte", "ff_out"):
        damaged.tensors[f"model.transformer.{name}.weight"] = np.zeros(shape, np.float32)
    damaged.write()
    assert refused_or_read(damaged.path) is None


def test_names_cannot_break_the_line(damaged: Any) -> None:
    for name in ("a\nb", "\x1b[31m", "x" * 100_000):
        damaged.tensors[name] = np.zeros(1, np.float32)
    for i in range(5000):
        damaged.tensors[f"junk{i}x"] = np.zeros(1, np.float32)
    damaged.write()
    with pytest.raises(ModelFileError) as caught:
        build_spec(open_checkpoint(damaged.path), Choices())
    assert "\n" not in str(caught.value)
    assert "and 4903 more" in str(caught.value)
    assert len(str(caught.value)) < 20_000


def test_a_file_cut_after_it_was_opened_is_no_crash(damaged: Any) -> None:
    checkpoint = open_checkpoint(damaged.path)
    path = damaged.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    refused = 0
    for tensor in checkpoint.tensors.values():
        try:
            tensor.values()
        except ModelFileError as error:
            refused += "changed while it was read" in str(error)
    assert refused > 5

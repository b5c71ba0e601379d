"""What a LLaDA config.json becomes, and what it is refused for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.checkpoint import open_checkpoint
from convert.models import build_spec
from convert.models.base import Choices, Spec, pair_rope_rows
from edge.errors import ModelFileError, RequestError, UnsupportedModelError

Make = Callable[..., Any]  # conftest.folder
ROOT = "model.transformer"


def spec_of(source: Path, mask_token_id: int | None = None) -> Spec:
    return build_spec(open_checkpoint(source), Choices(mask_token_id))


def values(spec: Spec) -> dict[str, Any]:
    return {entry.key: entry.value for entry in spec.entries}


def test_keys_of_a_plain_model(folder: Make) -> None:
    spec = spec_of(folder(n_kv_heads=2, embedding_size=64, pad_token_id=37).write())
    assert spec.architecture == "llada"
    assert values(spec) == {
        "llada.context_length": 48,
        "llada.embedding_length": 64,
        "llada.block_count": 2,
        "llada.feed_forward_length": 96,
        "llada.attention.head_count": 4,
        "llada.attention.head_count_kv": 2,
        "llada.attention.key_length": 16,
        "llada.attention.value_length": 16,
        "llada.attention.causal": False,
        "llada.attention.layer_norm_rms_epsilon": 1e-5,
        "llada.rope.freq_base": 10000.0,
        "llada.rope.dimension_count": 16,
        "llada.vocab_size": 64,
        "edge.num_tokens": 40,
        "diffusion.noise": "mask",
        "diffusion.attention": "full",
        "diffusion.canvas": "append",
        "diffusion.shift_logits": False,
        "diffusion.eos_ids": (38,),
        "tokenizer.ggml.mask_token_id": 39,
        "tokenizer.ggml.eos_token_id": 38,
        "tokenizer.ggml.padding_token_id": 37,
    }


def test_num_tokens_is_left_out_when_no_row_is_padding(folder: Make) -> None:
    assert "edge.num_tokens" not in values(spec_of(folder().write()))


@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({}, "llada"),
        ({"diffusion": {"attention": "bidirectional", "canvas": "append"}}, "llada"),
        ({"learned_position_table": True}, "edge-llama"),
        ({"diffusion": {"canvas": "in_place"}}, "edge-llama"),
    ],
)
def test_only_what_llama_cpp_runs_carries_its_name(
    folder: Make, changes: dict[str, Any], architecture: str
) -> None:
    spec = spec_of(folder(**changes).write())
    assert spec.architecture == architecture
    permuted = {t.target for t in spec.tensors if t.rope_heads}
    expected = {f"blk.{n}.attn_{x}.weight" for n in range(2) for x in "qk"}
    assert permuted == (expected if architecture == "llada" else set())


def test_q_and_k_rows_are_permuted_by_their_own_head_counts(folder: Make) -> None:
    made = folder(n_heads=8, n_kv_heads=2)
    spec = spec_of(made.write())
    checkpoint = open_checkpoint(made.path)
    loaded = {t.target: t.load(checkpoint) for t in spec.tensors}
    q = made.tensors[f"{ROOT}.blocks.1.q_proj.weight"]
    k = made.tensors[f"{ROOT}.blocks.1.k_proj.weight"]
    half = 4  # head_dim 8
    for head in range(8):
        for i in range(half):
            got = loaded["blk.1.attn_q.weight"][head * 8 + 2 * i : head * 8 + 2 * i + 2]
            np.testing.assert_array_equal(got, q[[head * 8 + i, head * 8 + i + half]])
    np.testing.assert_array_equal(loaded["blk.1.attn_k.weight"][9], k[8 + half])
    v = made.tensors[f"{ROOT}.blocks.1.v_proj.weight"]
    np.testing.assert_array_equal(loaded["blk.1.attn_v.weight"], v)


def test_paired_rotation_of_permuted_rows_is_half_split_rotation_of_the_source() -> None:
    random = np.random.default_rng(5)
    heads, head_dim, cols = 3, 8, 12
    weight = random.normal(size=(heads * head_dim, cols)).astype(np.float32)
    x = random.normal(size=cols)
    angle = random.normal(size=head_dim // 2)
    cos, sin = np.cos(angle), np.sin(angle)
    plain = (weight @ x).reshape(heads, 2, head_dim // 2)
    first, second = plain[:, 0], plain[:, 1]
    half_split = np.stack([first * cos - second * sin, second * cos + first * sin], axis=1)
    paired = (pair_rope_rows(weight, heads) @ x).reshape(heads, head_dim // 2, 2)
    even, odd = paired[..., 0], paired[..., 1]
    rotated = np.stack([even * cos - odd * sin, odd * cos + even * sin], axis=1)
    np.testing.assert_allclose(rotated, half_split, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False, None, ...])
def test_a_head_of_its_own_is_used_whatever_the_flag_says(folder: Make, tied: object) -> None:
    spec = spec_of(folder(weight_tying=tied).write())
    assert "output.weight" in {t.target for t in spec.tensors}


@pytest.mark.parametrize("tied", [True, False])
def test_a_bit_equal_head_is_stored_once(folder: Make, tied: bool) -> None:
    made = folder(weight_tying=tied)
    made.tensors[f"{ROOT}.ff_out.weight"] = made.tensors[f"{ROOT}.wte.weight"].copy()
    spec = spec_of(made.write())
    assert "output.weight" not in {t.target for t in spec.tensors}


def test_a_head_that_differs_in_a_zero_sign_is_kept(folder: Make) -> None:
    made = folder()
    made.tensors[f"{ROOT}.wte.weight"][0, 0] = 0.0
    made.tensors[f"{ROOT}.ff_out.weight"] = made.tensors[f"{ROOT}.wte.weight"].copy()
    made.tensors[f"{ROOT}.ff_out.weight"][0, 0] = -0.0
    assert "output.weight" in {t.target for t in spec_of(made.write()).tensors}


def test_a_tied_model_needs_no_head(folder: Make) -> None:
    made = folder(weight_tying=True)
    del made.tensors[f"{ROOT}.ff_out.weight"]
    spec = spec_of(made.write())
    assert "output.weight" not in {t.target for t in spec.tensors}


def test_all_missing_extra_and_misshapen_tensors_are_listed_at_once(folder: Make) -> None:
    made = folder(n_layers=3)
    for layer in (0, 1, 2):
        del made.tensors[f"{ROOT}.blocks.{layer}.up_proj.weight"]
    del made.tensors[f"{ROOT}.ln_f.weight"]
    del made.tensors[f"{ROOT}.ff_out.weight"]
    made.tensors["lora.a"] = np.zeros((2, 2), np.float32)
    made.tensors[f"{ROOT}.blocks.1.q_proj.bias"] = np.zeros(64, np.float32)
    made.tensors[f"{ROOT}.blocks.0.k_proj.weight"] = np.zeros((32, 64), np.float32)
    made.tensors[f"{ROOT}.blocks.2.ff_norm.weight"] = np.zeros((64, 1), np.float32)
    with pytest.raises(ModelFileError) as caught:
        spec_of(made.write())
    reason = caught.value.reason
    missing, extra, wrong = reason.split("; ")
    assert f"{ROOT}.blocks.{{0-2}}.up_proj.weight" in missing
    assert f"{ROOT}.ln_f.weight" in missing
    assert f"{ROOT}.ff_out.weight" in missing
    assert "lora.a" in extra
    assert f"{ROOT}.blocks.1.q_proj.bias" in extra
    assert f"{ROOT}.blocks.0.k_proj.weight is 32x64, wanted 64x64" in wrong
    assert f"{ROOT}.blocks.2.ff_norm.weight is 64x1, wanted 64" in wrong


def test_a_position_table_must_be_announced(folder: Make) -> None:
    made = folder(learned_position_table=True)
    made.config["learned_position_table"] = False
    with pytest.raises(ModelFileError, match=rf"extra: {ROOT}\.wpe\.weight"):
        spec_of(made.write())


def test_an_announced_position_table_must_be_there(folder: Make) -> None:
    made = folder(learned_position_table=True)
    del made.tensors[f"{ROOT}.wpe.weight"]
    with pytest.raises(ModelFileError, match=rf"missing: {ROOT}\.wpe\.weight"):
        spec_of(made.write())


UNSUPPORTED = {
    "block_type": "sequential",
    "layer_norm_type": "default",
    "activation_type": "swiglu",
    "rope": False,
    "alibi": True,
    "include_bias": True,
    "include_qkv_bias": True,
    "bias_for_layer_norm": True,
    "attention_layer_norm": True,
    "input_emb_norm": True,
    "scale_logits": True,
    "layer_norm_with_affine": False,
    "clip_qkv": 8.0,
    "block_group_size": 2,
    "rope_scaling": {"type": "yarn"},
    "quantization_config": {"bits": 4},
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_what_the_runtime_does_not_do_is_refused_by_name(folder: Make, key: str) -> None:
    source = folder(**{key: UNSUPPORTED[key]}).write()
    with pytest.raises(UnsupportedModelError, match=f"{key} is ") as caught:
        spec_of(source)
    assert str(UNSUPPORTED[key]).lower().replace("'", '"') in str(caught.value).lower()


def test_all_unsupported_keys_are_named_at_once(folder: Make) -> None:
    source = folder(alibi=True, scale_logits=True).write()
    with pytest.raises(UnsupportedModelError, match=r"alibi is true.*scale_logits is true"):
        spec_of(source)


def test_an_unknown_architecture_lists_the_known_ones(folder: Make) -> None:
    source = folder(architectures=["GPT2LMHeadModel"]).write()
    with pytest.raises(UnsupportedModelError, match=r'"GPT2LMHeadModel".*DreamModel.*LLaDAModelLM'):
        spec_of(source)


@pytest.mark.parametrize("value", [..., None, [], "LLaDAModelLM", [7], {}])
def test_a_config_must_name_its_architecture(folder: Make, value: object) -> None:
    source = folder(architectures=value).write()
    with pytest.raises(ModelFileError, match="architectures is "):
        spec_of(source)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_heads", 0),
        ("n_heads", True),
        ("n_heads", -4),
        ("n_heads", 4.0),
        ("n_heads", "4"),
        ("n_heads", 5),
        ("n_heads", 64),
        ("n_heads", ...),
        ("n_kv_heads", 0),
        ("n_kv_heads", 3),
        ("n_kv_heads", 8),
        ("n_kv_heads", 1 << 80),
        ("d_model", 0),
        ("d_model", 1 << 40),
        ("d_model", ...),
        ("n_layers", 0),
        ("n_layers", 10**9),
        ("n_layers", False),
        ("mlp_hidden_size", 0),
        ("mlp_hidden_size", [96]),
        ("vocab_size", 0),
        ("vocab_size", 41),
        ("vocab_size", ...),
        ("max_sequence_length", 0),
        ("max_sequence_length", 1 << 33),
        ("max_sequence_length", ...),
        ("rope_theta", 0),
        ("rope_theta", -1.0),
        ("rope_theta", 1e300),
        ("rope_theta", ...),
        ("rope_theta", True),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", 1e-300),
        ("rms_norm_eps", 2),
        ("rms_norm_eps", "small"),
        ("rms_norm_eps", ...),
        ("mask_token_id", 40),
        ("mask_token_id", -1),
        ("mask_token_id", True),
        ("mask_token_id", ...),
        ("mask_token_id", None),
        ("eos_token_id", 40),
        ("eos_token_id", -1),
        ("eos_token_id", "38"),
        ("eos_token_id", [38, 400]),
        ("eos_token_id", [38, True]),
        ("eos_token_id", 1 << 70),
        ("pad_token_id", 40),
        ("pad_token_id", 1.5),
        ("weight_tying", "no"),
        ("learned_position_table", 1),
        ("block_type", ...),
        ("rope", ...),
        ("diffusion", [1]),
    ],
)
def test_absurd_values_are_refused_by_name(folder: Make, key: str, value: object) -> None:
    made = folder()
    if value is ...:
        del made.config[key]
    else:
        made.config[key] = value
    with pytest.raises(ModelFileError) as caught:
        spec_of(made.write())
    assert key in caught.value.reason
    assert "\n" not in str(caught.value)


def test_nan_cannot_come_in_through_json(folder: Make) -> None:
    source = folder(rms_norm_eps=float("nan")).write()
    with pytest.raises(ModelFileError, match="NaN"):
        spec_of(source)


def test_the_reason_shows_the_value_and_what_is_wanted(folder: Make) -> None:
    source = folder(n_layers=-2).write()
    with pytest.raises(ModelFileError, match="n_layers is -2, a whole number from 1 to"):
        spec_of(source)


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"n_kv_heads": None}, "llada.attention.head_count_kv", 4),
        ({"mlp_hidden_size": None, "mlp_ratio": 2}, "llada.feed_forward_length", 128),
        ({"eos_token_id": None}, "diffusion.eos_ids", None),
        ({"eos_token_id": []}, "diffusion.eos_ids", None),
        ({"eos_token_id": [3, 5]}, "diffusion.eos_ids", (3, 5)),
        ({"eos_token_id": [3, 5]}, "tokenizer.ggml.eos_token_id", 3),
        ({"pad_token_id": None}, "tokenizer.ggml.padding_token_id", None),
    ],
)
def test_defaults_and_lists(
    folder: Make, changes: dict[str, Any], key: str, expected: object
) -> None:
    made = folder()
    made.config.update(changes)
    if "mlp_ratio" in changes:
        for name, array in made.tensors.items():
            if ".up_proj" in name or ".ff_proj" in name:
                made.tensors[name] = np.zeros((128, 64), np.float32)
            elif "blocks" in name and ".ff_out" in name:
                made.tensors[name] = np.zeros((64, 128), np.float32)
            assert array is not None
    assert values(spec_of(made.write())).get(key) == expected


def test_the_mask_can_be_given(folder: Make) -> None:
    source = folder(mask_token_id=...).write()
    assert values(spec_of(source, 7))["tokenizer.ggml.mask_token_id"] == 7


def test_a_given_mask_wins(folder: Make) -> None:
    assert values(spec_of(folder().write(), 0))["tokenizer.ggml.mask_token_id"] == 0


def test_without_a_mask_the_option_is_named(folder: Make) -> None:
    source = folder(mask_token_id=...).write()
    with pytest.raises(ModelFileError, match=r"no mask_token_id .* --mask-token-id N"):
        spec_of(source)


def test_the_tokenizer_must_fit_the_embedding(folder: Make, golden: Callable[[str], Path]) -> None:
    made = folder(vocab_size=9, mask_token_id=0, eos_token_id=None)
    (golden("sudoku") / "tokenizer.json").rename(made.write() / "tokenizer.json")
    with pytest.raises(ModelFileError, match="gives id 9, the embedding has 9 rows"):
        spec_of(made.path)


@pytest.mark.parametrize("mask", [-1, 40])
def test_a_given_mask_must_be_a_row(folder: Make, mask: int) -> None:
    source = folder().write()
    with pytest.raises(RequestError, match="outside the embedding's 40 rows"):
        spec_of(source, mask)

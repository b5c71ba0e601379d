"""What a Llama-, Qwen2- or Qwen3-shaped config.json becomes, and what it is refused for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge
from convert import convert as run
from convert.checkpoint import open_checkpoint
from convert.metadata import SETTINGS
from convert.models import build_spec
from convert.models.base import Choices, Spec
from edge.errors import ModelFileError, UnsupportedModelError
from edge.formats.gguf_file import open_model

Make = Callable[..., Any]  # conftest.dense
TOLD = Choices(settings={"diffusion.attention": SETTINGS["diffusion.attention"].entry("full")})
ATTENTION = "model.layers.0.self_attn"
CLASSES = [
    "A2DQwen2LMHeadModel",
    "A2DQwen3LMHeadModel",
    "DreamModel",
    "Fast_dLLM_QwenForCausalLM",
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SDARForCausalLM",
]
PLAIN = {
    "attn_norm.weight": (64,),
    "attn_q.weight": (64, 64),
    "attn_k.weight": (32, 64),
    "attn_v.weight": (32, 64),
    "attn_output.weight": (64, 64),
    "ffn_norm.weight": (64,),
    "ffn_gate.weight": (96, 64),
    "ffn_up.weight": (96, 64),
    "ffn_down.weight": (64, 96),
}
BIASES = {"attn_q.bias": (64,), "attn_k.bias": (32,), "attn_v.bias": (32,)}
NORMS = {"attn_q_norm.weight": (16,), "attn_k_norm.weight": (16,)}


def spec_of(source: Path, choices: Choices = TOLD) -> Spec:
    return build_spec(open_checkpoint(source), choices)


def values(spec: Spec) -> dict[str, Any]:
    return {entry.key: entry.value for entry in spec.entries}


def layer(spec: Spec, number: int) -> dict[str, tuple[int, ...]]:
    prefix = f"blk.{number}."
    return {
        t.target.removeprefix(prefix): t.shape for t in spec.tensors if t.target.startswith(prefix)
    }


@pytest.mark.parametrize(
    ("name", "architecture", "more"),
    [
        ("DreamModel", "dream", BIASES),
        ("A2DQwen2LMHeadModel", "edge-qwen2", BIASES),
        ("A2DQwen3LMHeadModel", "edge-qwen3", NORMS),
        ("SDARForCausalLM", "edge-qwen3", NORMS),
        ("Fast_dLLM_QwenForCausalLM", "edge-qwen2", BIASES),
        ("LlamaForCausalLM", "edge-llama", {}),
        ("Qwen2ForCausalLM", "edge-qwen2", BIASES),
        ("Qwen3ForCausalLM", "edge-qwen3", NORMS),
    ],
)
def test_tensors_of_each_class(
    dense: Make, name: str, architecture: str, more: dict[str, tuple[int, ...]]
) -> None:
    spec = spec_of(dense(name).write())
    assert spec.architecture == architecture
    assert layer(spec, 0) == layer(spec, 1) == PLAIN | more
    ends = {t.target: t.shape for t in spec.tensors if not t.target.startswith("blk.")}
    rows = (40, 64)
    assert ends == {"token_embd.weight": rows, "output_norm.weight": (64,), "output.weight": rows}
    assert not any(tensor.rope_heads for tensor in spec.tensors)


def test_keys_of_the_shape(dense: Make) -> None:
    source = dense("A2DQwen3LMHeadModel", rows=48, bos_token_id=3, pad_token_id=4).write()
    assert {k: v for k, v in values(spec_of(source)).items() if k[:10] != "diffusion."} == {
        "edge-qwen3.context_length": 48,
        "edge-qwen3.embedding_length": 64,
        "edge-qwen3.block_count": 2,
        "edge-qwen3.feed_forward_length": 96,
        "edge-qwen3.attention.head_count": 4,
        "edge-qwen3.attention.head_count_kv": 2,
        "edge-qwen3.attention.key_length": 16,
        "edge-qwen3.attention.value_length": 16,
        "edge-qwen3.attention.causal": False,
        "edge-qwen3.attention.layer_norm_rms_epsilon": 1e-6,
        "edge-qwen3.rope.freq_base": 10000.0,
        "edge-qwen3.rope.dimension_count": 16,
        "edge-qwen3.vocab_size": 48,
        "edge.num_tokens": 40,
        "tokenizer.ggml.mask_token_id": 39,
        "tokenizer.ggml.eos_token_id": 38,
        "tokenizer.ggml.padding_token_id": 4,
        "tokenizer.ggml.bos_token_id": 3,
    }


@pytest.mark.parametrize("name", CLASSES)
def test_heads_need_not_share_the_hidden_size(dense: Make, name: str) -> None:
    spec = spec_of(dense(name, head_dim=6).write())
    shapes = layer(spec, 1)
    assert shapes["attn_q.weight"] == (24, 64)
    assert shapes["attn_v.weight"] == (12, 64)
    assert shapes["attn_output.weight"] == (64, 24)
    assert shapes.get("attn_k.bias", (12,)) == (12,)
    assert shapes.get("attn_k_norm.weight", (6,)) == (6,)
    assert values(spec)[f"{spec.architecture}.attention.key_length"] == 6


def test_the_hidden_size_need_not_be_a_number_of_heads(dense: Make) -> None:
    source = dense(head_dim=16, num_attention_heads=3, num_key_value_heads=1).write()
    assert layer(spec_of(source), 0)["attn_q.weight"] == (48, 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 32},
        {"diffusion": {"canvas": "in_place"}},
        {"diffusion": {"attention": "block"}},
    ],
)
def test_only_what_llama_cpp_runs_carries_its_name(dense: Make, changes: dict[str, Any]) -> None:
    assert spec_of(dense("DreamModel", **changes).write(), Choices()).architecture == "edge-qwen2"


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_biases_follow_the_config(dense: Make, name: str) -> None:
    with_biases = dense(name, attention_bias=True)
    shapes = layer(spec_of(with_biases.write()), 1)
    assert BIASES.items() <= shapes.items()
    with_biases.config["attention_bias"] = False
    with pytest.raises(ModelFileError, match=r"extra: model\.layers\.\{0-1\}\.self_attn\.k_proj"):
        spec_of(with_biases.write())


def test_qwen2_has_biases_whatever_the_config_says(dense: Make) -> None:
    made = dense("A2DQwen2LMHeadModel", attention_bias=False)
    assert layer(spec_of(made.write()), 0) == PLAIN | BIASES
    del made.tensors[f"{ATTENTION}.v_proj.bias"]
    with pytest.raises(ModelFileError, match=rf"missing: {ATTENTION}\.v_proj\.bias"):
        spec_of(made.write())


@pytest.mark.parametrize("name", ["self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj"])
def test_other_biases_are_unsupported(dense: Make, name: str) -> None:
    made = dense("DreamModel")
    for number in (0, 1):
        made.tensors[f"model.layers.{number}.{name}.bias"] = np.zeros(64, np.float32)
    match = rf"model\.layers\.\{{0-1\}}\.{name}\.bias is there"
    with pytest.raises(UnsupportedModelError, match=match):
        spec_of(made.write())


@pytest.mark.parametrize("tied", [True, False, None, ...])
def test_a_head_of_its_own_is_used_whatever_the_flag_says(dense: Make, tied: object) -> None:
    spec = spec_of(dense(tie_word_embeddings=tied).write())
    assert spec.tensors[-1].source == "lm_head.weight"


@pytest.mark.parametrize("tied", [True, False])
def test_a_bit_equal_head_is_stored_once(dense: Make, tmp_path: Path, tied: bool) -> None:
    made = dense(tie_word_embeddings=tied)
    made.tensors["lm_head.weight"] = made.tensors["model.embed_tokens.weight"].copy()
    run(made.write(), tmp_path / "out.gguf")
    assert "output.weight" not in open_model(tmp_path / "out.gguf").tensors


def test_a_tied_model_needs_no_head_another_does(dense: Make) -> None:
    made = dense(tie_word_embeddings=True)
    del made.tensors["lm_head.weight"]
    assert spec_of(made.write()).tensors[-1].target == "output_norm.weight"
    made.config["tie_word_embeddings"] = False
    with pytest.raises(ModelFileError, match=r"missing: lm_head\.weight"):
        spec_of(made.write())


def test_frequency_tables_are_left_out_and_listed(dense: Make, tmp_path: Path) -> None:
    made = dense()
    table = np.ones(8, np.float32)
    names = [f"{ATTENTION}.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]
    made.tensors |= dict.fromkeys(names, table)
    report = run(made.write(), tmp_path / "out.gguf")
    assert report.ignored == tuple(names)
    assert report.to_json()["ignored"] == tuple(names)
    made.tensors[f"{ATTENTION}.rotary_emb.cos_cached"] = table
    with pytest.raises(ModelFileError, match=r"extra: .*\.rotary_emb\.cos_cached$|cos_cached "):
        spec_of(made.write())


@pytest.mark.parametrize("bound", ["vocab_size", "tokenizer"])
def test_ids_beyond_the_config_or_the_tokenizer_are_padding(
    dense: Make, bpe: Callable[..., Any], bound: str
) -> None:
    made = dense(rows=400, vocab_size=330, mask_token_id=7)
    made.write()
    expected = 330
    if bound == "tokenizer":
        tokenizer = bpe("qwen2")
        tokenizer.save(str(made.path / "tokenizer.json"))
        expected = tokenizer.get_vocab_size()
    assert values(spec_of(made.path))["edge.num_tokens"] == expected < 400


UNSUPPORTED = [
    ("hidden_act", "gelu", "hidden_act"),
    ("rope_scaling", {"rope_type": "dynamic", "factor": 4.0}, "rope_scaling"),
    ("rope_scaling", {"rope_type": "yarn", "truncate": False}, "truncate of rope_scaling"),
    ("rope_scaling", {"type": "linear", "factor": 2.0}, "rope_scaling"),
    ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}, "rope_parameters"),
    ("rope_parameters", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("partial_rotary_factor", 0.5, "partial_rotary_factor"),
    ("use_sliding_window", True, "use_sliding_window"),
    ("sliding_window", 4096, "sliding_window is 4096"),
    ("layer_types", ["full_attention", "sliding_attention"], "layer_types"),
    ("mlp_bias", True, "mlp_bias"),
    ("quantization_config", {"bits": 4}, "quantization_config"),
]


@pytest.mark.parametrize(("key", "value", "named"), UNSUPPORTED)
def test_what_the_runtime_does_not_do_is_refused_by_name(
    dense: Make, key: str, value: object, named: str
) -> None:
    source = dense(**{key: value}).write()
    with pytest.raises(UnsupportedModelError, match=named):
        spec_of(source)


@pytest.mark.parametrize(
    ("rope", "factor", "original", "magnitude"),
    [
        ({"factor": 4.0, "original_max_position_embeddings": 12}, 4.0, 12, 1.1386),
        ({"original_max_position_embeddings": 24}, 2.0, 24, 1.0693),
        ({"factor": 4.0}, 4.0, 48, 1.1386),
        ({"factor": 4.0, "attention_factor": 1.5}, 4.0, 48, 1.5),
        ({"factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0}, 4.0, 48, 1.0),
        ({"factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0}, 4.0, 48, 1.1386),
    ],
)
@pytest.mark.parametrize("section", ["rope_scaling", "rope_parameters"])
def test_yarn_reaches_the_runtime(
    dense: Make,
    tmp_path: Path,
    section: str,
    rope: dict[str, Any],
    factor: float,
    original: int,
    magnitude: float,
) -> None:
    source = dense(**{section: {"rope_type": "yarn", **rope}}).write()
    run(source, tmp_path / "out.gguf")
    yarn = edge.inspect(tmp_path / "out.gguf").config.denoiser.yarn
    assert yarn is not None
    assert (yarn.factor, yarn.original_length) == (factor, original)
    assert (yarn.beta_fast, yarn.beta_slow) == (32.0, 1.0)
    assert yarn.magnitude == pytest.approx(magnitude, rel=1e-4)


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        ({"factor": 0.5}, "rope_scaling.factor is 0.5"),
        ({"factor": "four"}, 'rope_scaling.factor is "four"'),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings is 0"),
        ({"beta_fast": -1}, "rope_scaling.beta_fast is -1"),
    ],
)
def test_impossible_yarn(dense: Make, rope: dict[str, Any], named: str) -> None:
    source = dense(rope_scaling={"rope_type": "yarn", **rope}).write()
    with pytest.raises(ModelFileError, match=named):
        spec_of(source)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": None, "sliding_window": None},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": {"type": "default"}},
        {"rope_theta": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"rope_parameters": {"rope_theta": 10000}},
        {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 1},
        {"layer_types": ["full_attention"] * 2},
        {"attention_bias": False, "attention_dropout": 0.0, "use_cache": True},
    ],
)
def test_harmless_keys_change_nothing(dense: Make, changes: dict[str, Any]) -> None:
    plain = dense(folder="plain").write()
    assert values(spec_of(dense(**changes).write())) == values(spec_of(plain))


ABSURD = [
    ("hidden_size", 0),
    ("hidden_size", 1 << 40),
    ("num_attention_heads", 6),
    ("num_attention_heads", 64),
    ("num_attention_heads", True),
    ("num_key_value_heads", 3),
    ("num_key_value_heads", 8),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 10**9),
    ("intermediate_size", [96]),
    ("vocab_size", 41),
    ("vocab_size", ...),
    ("max_position_embeddings", 1 << 33),
    ("max_position_embeddings", ...),
    ("head_dim", 15),
    ("head_dim", 0),
    ("head_dim", 1.5),
    ("hidden_act", ...),
    ("rope_theta", ...),
    ("rope_theta", 0.5),
    ("rope_scaling", "yarn"),
    ("rope_parameters", {"rope_theta": 5e5}),
    ("rope_parameters", {"rope_theta": "high"}),
    ("rms_norm_eps", ...),
    ("rms_norm_eps", 2),
    ("tie_word_embeddings", "no"),
    ("attention_bias", 1),
    ("use_sliding_window", 0),
    ("layer_types", "full_attention"),
    ("bos_token_id", 40),
    ("eos_token_id", [38, 40]),
    ("mask_token_id", 40),
    ("block_size", 0),
    ("block_size", 49),
]


@pytest.mark.parametrize(("key", "value"), ABSURD)
def test_absurd_values_are_refused_by_name(dense: Make, key: str, value: object) -> None:
    made = dense()
    made.config[key] = value
    if value is ...:
        del made.config[key]
    with pytest.raises(ModelFileError) as caught:
        spec_of(made.write())
    assert key in caught.value.reason
    assert "\n" not in str(caught.value)


def test_all_wrong_tensors_are_listed_at_once(dense: Make) -> None:
    made = dense()
    for number in (0, 1):
        del made.tensors[f"model.layers.{number}.mlp.up_proj.weight"]
    made.tensors["model.layers.1.mlp.experts.0.weight"] = np.zeros((2, 2), np.float32)
    made.tensors[f"{ATTENTION}.k_norm.weight"] = np.zeros(64, np.float32)
    with pytest.raises(ModelFileError) as caught:
        spec_of(made.write())
    missing, extra, wrong = caught.value.reason.split("; ")
    assert "missing: model.layers.{0-1}.mlp.up_proj.weight" in missing
    assert "extra: model.layers.1.mlp.experts.0.weight" in extra
    assert f"{ATTENTION}.k_norm.weight is 64, wanted 16" in wrong


@pytest.mark.parametrize("kind", ["q8_0", "bf16"])
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_converts_and_reads_back(
    dense: Make, tmp_path: Path, name: str, kind: str
) -> None:
    source = dense(name, rows=56, head_dim=24).write_shards()
    run(source, tmp_path / "out.gguf", kind, overrides={"diffusion.attention": "full"})
    file = open_model(tmp_path / "out.gguf")
    checkpoint = open_checkpoint(source)
    spec = spec_of(source)
    assert list(file.tensors) == [tensor.target for tensor in spec.tensors]
    for tensor in spec.tensors:
        wanted = tensor.load(checkpoint)
        wanted = wanted.reshape(-1, wanted.shape[-1])
        read = file.read_rows(tensor.target, 0, len(wanted))
        exact = tensor.role in ("norm", "bias")
        assert (file.tensors[tensor.target].type == "f32") == exact
        assert np.abs(read - wanted).max() <= (0 if exact else 0.0045 * np.abs(wanted).max())

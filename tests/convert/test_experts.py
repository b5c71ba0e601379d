"""Checkpoints with experts become the networks that their published classes compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy_twin
import pytest
from expert_checkpoints import source_tensors, write_checkpoint
from expert_models import HEAD_DIM, MASK, VOCAB, ExpertModel
from numpy_experts import mixture
from safetensors.numpy import load_file, save_file

import edge
from convert import convert
from edge.config import ModelConfig, read_config
from edge.errors import ModelFileError, UnsupportedModelError
from edge.formats.experts import Experts
from edge.formats.gguf_file import read_header

PLAIN = ExpertModel(Experts(8, 2, 32), num_layers=2, rotary_dims=HEAD_DIM, has_bias=False)
RENORMALISED = replace(PLAIN, experts=Experts(8, 2, 32, renormalises=True))
ODD = replace(
    PLAIN,
    experts=Experts(8, 3, 32, 64, 1, "sigmoid", bias_counts=True),
    has_bias=True,
    num_layers=3,
)
CASES = {
    "LLaDAMoEModelLM": (PLAIN, "edge-llada-moe"),
    "LLaDAMoEModelLM odd": (ODD, "edge-llada-moe"),
    "SDARMoeForCausalLM": (RENORMALISED, "edge-qwen3moe"),
    "SDARMoeForCausalLM dense": (
        replace(PLAIN, experts=replace(PLAIN.experts, num_dense_layers=1)),
        "edge-qwen3moe",
    ),
    "RND1": (RENORMALISED, "rnd1"),
}
IDS = np.random.default_rng(1).integers(0, VOCAB, 24).astype(np.int32)


def config_of(path: Path) -> ModelConfig:
    return read_config(read_header(path))


def formula(model: ExpertModel, ids: Any, mask: Any = None) -> Any:
    """Logits of the weights that the checkpoint is written from."""
    weights = {
        name: list(values) if values.ndim == 3 else values
        for name, values in model.tensors().items()
    }
    return numpy_twin.forward(
        model.network(weights), ids, numpy_twin.Plain(), mask, experts=mixture
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", list(CASES))
def test_logits_are_the_formula(tmp_path: Path, case: str, fused: bool) -> None:
    model, architecture = CASES[case]
    source = write_checkpoint(tmp_path / "source", case.split()[0], model, fused=fused)
    out = tmp_path / "model.gguf"
    convert(source, out, "f32")
    config = config_of(out)
    assert config.denoiser.architecture == architecture
    assert config.denoiser.experts == model.experts
    blocks = config.diffusion.attention == "block"
    mask = numpy_twin.Mask("block", config.diffusion.block_length) if blocks else None
    with edge.load(out) as loaded:
        assert np.abs(loaded.logits(IDS) - formula(model, IDS, mask)).max() < 1e-4


def test_a_public_name_is_for_what_llama_cpp_runs(tmp_path: Path) -> None:
    """There the heads share the hidden size."""
    shape = {"head_dim": 16, "num_key_value_heads": 4}
    tensors = source_tensors(PLAIN)
    for name, values in tensors.items():
        if "self_attn" in name:
            cut = values[: values.shape[0] // 2] if "o_proj" not in name else values[:, :64]
            tensors[name] = np.ascontiguousarray(cut)
            if name[-13:] in ("k_proj.weight", "v_proj.weight"):
                tensors[name] = np.ascontiguousarray(values[:64])
    source = write_checkpoint(tmp_path / "source", "LLaDAMoEModelLM", PLAIN, **shape)
    save_file(tensors, source / "model.safetensors")
    convert(source, tmp_path / "a.gguf", "f32")
    assert config_of(tmp_path / "a.gguf").denoiser.architecture == "llada-moe"
    told = {"diffusion.canvas": "in_place"}
    convert(source, tmp_path / "b.gguf", "f32", overrides=told)
    assert config_of(tmp_path / "b.gguf").denoiser.architecture == "edge-llada-moe"


@pytest.mark.parametrize(("name", "more"), [("llada-moe", {}), ("rnd1", {"renormalises": True})])
def test_public_files_are_read_by_llama_cpp_s_keys(
    tmp_path: Path, name: str, more: dict[str, bool]
) -> None:
    counts = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 32}
    model = replace(PLAIN, architecture=name, more=counts, experts=Experts(8, 2, 32, **more))
    model.write(tmp_path / "public.gguf")
    with edge.load(tmp_path / "public.gguf") as loaded:
        assert np.abs(loaded.logits(IDS) - formula(model, IDS)).max() < 1e-4
        assert loaded.config.diffusion.shift_logits == (name == "rnd1")


@pytest.mark.parametrize("kind", ["f16", "int8", "int4", "q8_0", "q4_0"])
def test_types(tmp_path: Path, kind: str) -> None:
    source = write_checkpoint(tmp_path / "source", "LLaDAMoEModelLM", ODD)
    report = convert(source, tmp_path / "model.gguf", kind, method="nearest")
    types = {tensor.name: tensor.type for tensor in report.tensors}
    assert types["blk.1.ffn_gate_exps.weight"] == types["blk.1.ffn_down_shexp.weight"] == kind
    assert types["blk.1.ffn_gate_inp.weight"] == types["blk.1.exp_probs_b.bias"] == "f32"
    with edge.load(tmp_path / "model.gguf") as loaded:
        difference = np.abs(loaded.logits(IDS) - formula(ODD, IDS))
        assert 0 < difference.mean() < (1.5 if "4" in kind else 0.3)
        assert MASK not in loaded.generate_ids([1, 2, 3], max_tokens=9).ids


def test_a_model_file_is_a_source(tmp_path: Path) -> None:
    model = ExpertModel(Experts(16, 3, 64, 32, 1, "sigmoid", True, False, 2.5, 4, 2))
    model.write(tmp_path / "first.gguf")
    convert(tmp_path / "first.gguf", tmp_path / "second.gguf", "f32")
    convert(tmp_path / "first.gguf", tmp_path / "third.gguf", "q8_0")
    assert config_of(tmp_path / "third.gguf").denoiser.experts == model.experts
    with edge.load(tmp_path / "first.gguf") as first, edge.load(tmp_path / "second.gguf") as second:
        np.testing.assert_array_equal(first.logits(IDS), second.logits(IDS))


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"num_experts_per_tok": 9}, ModelFileError, "num_experts_per_tok"),
        ({"num_experts": None}, ModelFileError, "num_experts"),
        ({"moe_layer_freq": [1, 0]}, ModelFileError, "moe_layer_freq"),
        ({"moe_router_score_function": "hard"}, ModelFileError, "moe_router_score_function"),
        ({"routed_scaling_factor": 2.5}, UnsupportedModelError, "routed_scaling_factor"),
        ({"qk_layernorm": False}, UnsupportedModelError, "qk_layernorm"),
        ({"expert_intermediate_size": 48}, ModelFileError, "wrong shape.*experts.gate_proj"),
    ],
)
def test_llada_moe_settings_that_cannot_be(
    tmp_path: Path, changes: dict[str, Any], error: type[edge.EdgeError], named: str
) -> None:
    source = write_checkpoint(tmp_path / "source", "LLaDAMoEModelLM", PLAIN, **changes)
    with pytest.raises(error, match=named):
        convert(source, tmp_path / "model.gguf", "f32")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"mlp_only_layers": [1]}, ModelFileError),
        ({"decoder_sparse_step": 2}, UnsupportedModelError),
        ({"partial_rotary_factor": 0.5}, UnsupportedModelError),
    ],
)
def test_qwen3_moe_settings_that_cannot_be(
    tmp_path: Path, changes: dict[str, Any], error: type[edge.EdgeError]
) -> None:
    source = write_checkpoint(tmp_path / "source", "SDARMoeForCausalLM", RENORMALISED, **changes)
    with pytest.raises(error, match=next(iter(changes))):
        convert(source, tmp_path / "model.gguf", "f32")


@pytest.mark.parametrize("lost", ["experts.5.up_proj.weight", "experts.7.up_proj.weight"])
def test_an_expert_that_is_missing_is_named(tmp_path: Path, lost: str) -> None:
    source = write_checkpoint(tmp_path / "source", "SDARMoeForCausalLM", RENORMALISED)
    path = source / "model.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if k != f"model.layers.1.mlp.{lost}"}
    save_file(tensors, path)
    with pytest.raises(ModelFileError, match=r"layers\.1\.mlp\.experts.*up_proj"):
        convert(source, tmp_path / "model.gguf", "f32")


def test_fused_tensors_of_another_layout_are_refused(tmp_path: Path) -> None:
    """[experts, in, out], as other families have it."""
    source = write_checkpoint(tmp_path / "source", "SDARMoeForCausalLM", RENORMALISED, fused=True)
    path = source / "model.safetensors"
    turned = {
        name: np.ascontiguousarray(values.swapaxes(1, 2)) if values.ndim == 3 else values
        for name, values in load_file(path).items()
    }
    save_file(turned, path)
    with pytest.raises(ModelFileError, match="wrong shape"):
        convert(source, tmp_path / "model.gguf", "f32")

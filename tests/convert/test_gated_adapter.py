"""Adapters for mask tokens: stored beside the weights, or refused by the name of what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gated_model import HEADS, KV_HEADS, MASK, Gated
from safetensors.numpy import save_file

import edge
from convert import convert
from convert.models.base import pair_rope_rows
from edge.errors import EdgeError, ModelFileError, ModelNotFoundError, UnsupportedModelError
from edge.formats import keys
from edge.formats.gguf_file import open_model

Run = Callable[..., Any]  # conftest.edge_convert
UP = "base_model.model.model.layers.0.mlp.up_proj"
TOKEN = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@dataclass
class Case:
    """A checkpoint and an adapter that a test changes."""

    gated: Gated
    base: Path
    adapter: Path

    def change(self, tensors: dict[str, Any] | None = None, **settings: Any) -> None:
        """Other tensors (None: gone) and settings of the adapter."""
        made = self.gated.adapter_tensors() | (tensors or {})
        made = {name: values for name, values in made.items() if values is not None}
        save_file(made, self.adapter / "adapter_model.safetensors")
        config = self.gated.settings | settings
        (self.adapter / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    gated = Gated.random(rank=4)
    return Case(gated, *gated.write(tmp_path))


def test_what_the_file_says(case: Case, tmp_path: Path) -> None:
    report = convert(case.base, tmp_path / "out.gguf", "f32", gated_adapter=case.adapter)
    file = open_model(report.output)
    told = file.metadata
    assert told[keys.GATE_RANK] == 4
    assert told[keys.MASK_TOKEN_ID] == MASK
    assert told[keys.ATTENTION] == "causal_context"
    assert told[keys.SHIFT_LOGITS] is True
    assert told[keys.BLOCK_LENGTH] == 8
    assert told[keys.GATE_SHA256] == report.gated_adapter_sha256
    b = file.read_rows("blk.0.ffn_up.gate_b.weight", 0, 96)
    assert np.array_equal(b, 2 * case.gated.b["model.layers.0.mlp.up_proj"])
    assert np.array_equal(file.read_rows("mask_embd.weight", 0, 1)[0], case.gated.mask_embedding)
    assert any("mask tokens run with the adapter" in note for note in report.notes)


@pytest.mark.parametrize(
    ("type", "rank", "a", "b"),
    [
        ("f32", 32, "f32", "f32"),
        ("bf16", 32, "bf16", "bf16"),
        ("q8_0", 32, "int8", "int8"),
        ("int4", 32, "int8", "int8"),
        ("q4_0", 5, "int8", "f16"),  # five columns are no group
    ],
)
def test_types(tmp_path: Path, type: str, rank: int, a: str, b: str) -> None:
    base, adapter = Gated.random(rank=rank).write(tmp_path)
    out = tmp_path / "out.gguf"
    convert(base, out, type, method="nearest", gated_adapter=adapter)
    tensors = open_model(str(out)).tensors
    assert tensors["blk.1.attn_q.gate_a.weight"].type == a
    assert tensors["blk.1.attn_q.gate_b.weight"].type == b
    assert tensors["mask_embd.weight"].type == "f32"


def test_ranks_and_factors_by_pattern(case: Case, tmp_path: Path) -> None:
    a = np.ones((6, 64), np.float32)
    b = np.ones((96, 6), np.float32)
    case.change(
        {f"{UP}.lora_A.weight": a, f"{UP}.lora_B.weight": b},
        rank_pattern={"layers.0.mlp.up_proj": 6},
        alpha_pattern={"layers.0.mlp.up_proj": 3},
    )
    report = convert(case.base, tmp_path / "out.gguf", "f32", gated_adapter=case.adapter)
    file = open_model(report.output)
    assert file.metadata[keys.GATE_RANK] == 6
    assert np.array_equal(file.read_rows("blk.0.ffn_up.gate_b.weight", 0, 96), b / 2)


def test_a_mask_token_without_an_embedding_of_its_own(case: Case, tmp_path: Path) -> None:
    case.change({TOKEN: None}, trainable_token_indices=None)
    out = tmp_path / "out.gguf"
    convert(case.base, out, "f32", gated_adapter=case.adapter, mask_token_id=7)
    file = open_model(str(out))
    assert file.metadata[keys.MASK_TOKEN_ID] == 7
    assert "mask_embd.weight" not in file.tensors


def test_an_adapter_of_some_layers(case: Case, tmp_path: Path) -> None:
    names = (n for n in case.gated.adapter_tensors() if "up_proj" not in n and n != TOKEN)
    case.change(dict.fromkeys(names), target_modules=["up_proj"])
    out = tmp_path / "out.gguf"
    convert(case.base, out, "f32", gated_adapter=case.adapter)
    gated = [name for name in open_model(str(out)).tensors if "gate_a" in name]
    assert gated == ["blk.0.ffn_up.gate_a.weight", "blk.1.ffn_up.gate_a.weight"]


ROW = np.zeros((1, 64), np.float32)
REFUSED: dict[str, tuple[type[EdgeError], str, dict[str, Any], dict[str, Any]]] = {
    "two tokens": (ModelFileError, r"\[16, 17\]", {}, {"trainable_token_indices": [16, 17]}),
    "no embedding": (ModelFileError, "no trained embedding", {TOKEN: None}, {}),
    "no token": (ModelFileError, "a trained embedding", {}, {"trainable_token_indices": None}),
    "ids": (ModelFileError, "list of token ids", {}, {"trainable_token_indices": ["x"]}),
    "two rows": (ModelFileError, "one row", {TOKEN: np.zeros((2, 64), np.float32)}, {}),
    "width": (ModelFileError, "mask_embedding is 63, wanted 64", {TOKEN: ROW[:, :63].copy()}, {}),
    "not finite": (ModelFileError, "finite", {TOKEN: ROW * np.nan}, {}),
    "missing": (
        ModelFileError,
        "nothing is there for 'model.layers.0.mlp.up_proj.weight'",
        {f"{UP}.lora_A.weight": None, f"{UP}.lora_B.weight": None},
        {"target_modules": ["up_proj", "q_proj"]},
    ),
    "shape": (ModelFileError, "96x60", {f"{UP}.lora_A.weight": np.zeros((4, 60), "f4")}, {}),
    "rank": (ModelFileError, "rank 4", {f"{UP}.lora_A.weight": np.zeros((3, 64), "f4")}, {}),
    "whole tensors": (
        UnsupportedModelError,
        "replaces 'model.norm.weight'",
        {"base_model.model.model.norm.weight": ROW[0]},
        {},
    ),
    "the embedding": (
        UnsupportedModelError,
        "no linear layer",
        {
            "base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((4, 40), "f4"),
            "base_model.model.model.embed_tokens.lora_embedding_B": np.zeros((64, 4), "f4"),
        },
        {},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(case: Case, tmp_path: Path, name: str) -> None:
    error, match, tensors, changes = REFUSED[name]
    case.change(tensors, **changes)
    with pytest.raises(error, match=match):
        convert(case.base, tmp_path / "out.gguf", "f32", gated_adapter=case.adapter)
    assert not (tmp_path / "out.gguf").exists()


def test_what_does_not_go_together(case: Case, tmp_path: Path, dense: Run) -> None:
    out = tmp_path / "out.gguf"
    with pytest.raises(ModelNotFoundError):
        convert(case.base, out, gated_adapter=tmp_path / "none")
    with pytest.raises(UnsupportedModelError, match="--gated-adapter"):
        convert(case.base, out, adapter=case.adapter)
    settings = {"diffusion.attention": "full"}
    with pytest.raises(UnsupportedModelError, match="causal_context"):
        convert(case.base, out, gated_adapter=case.adapter, overrides=settings)
    with pytest.raises(UnsupportedModelError, match="no rows to gate"):
        convert(dense().write(), out, gated_adapter=case.adapter)


@pytest.mark.parametrize("type", ["int8", "int4"])
def test_compensated_rounding_meets_plain_text(case: Case, tmp_path: Path, type: str) -> None:
    out, report = tmp_path / "out.gguf", tmp_path / "report.json"
    convert(case.base, out, type, gated_adapter=case.adapter, report=report)
    with edge.load(out) as model, edge.load(out, activations="f32") as exact:
        for options in ({"block_length": 8}, {}):
            wanted = model.generate_ids([1, 2], sampler="autoregressive", max_tokens=20).ids
            assert model.generate_ids([1, 2], max_tokens=20, **options).ids == wanted
        found = exact.logits([3, 4, 5, 6, MASK, MASK], 4)
    wanted = case.gated.logits([3, 4, 5, 6, MASK, MASK], np.arange(6) > 3)
    masked = np.corrcoef(found[4:].ravel(), wanted[4:].ravel())[0, 1]
    assert masked > (0.99 if type == "int8" else 0.8)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > (0.99 if type == "int8" else 0.8)
    assert "compensated" in report.read_text()


def rows_of(path: Path) -> dict[str, Any]:
    file = open_model(str(path))
    return {
        n: file.read_rows(n, 0, t.shape[0] if len(t.shape) > 1 else 1)
        for n, t in file.tensors.items()
    }


def test_a_model_file_as_the_source(case: Case, tmp_path: Path) -> None:
    plain, wanted, out, again = (tmp_path / f"{name}.gguf" for name in "abcd")
    keys_of_a_causal_model = {"diffusion.attention": "causal_context"}
    convert(case.base, plain, "f32", mask_token_id=3, overrides=keys_of_a_causal_model)
    convert(case.base, wanted, "q8_0", gated_adapter=case.adapter)
    report = convert(plain, out, "q8_0", gated_adapter=case.adapter)
    convert(out, again, "q8_0")
    for path in (out, again):
        found = rows_of(path)
        assert found.keys() == rows_of(wanted).keys()
        assert all(np.array_equal(found[name], rows) for name, rows in rows_of(wanted).items())
        told = open_model(str(path)).metadata
        assert told[keys.MASK_TOKEN_ID] == MASK
        assert told[keys.GATE_RANK] == 4
        assert told[keys.SAMPLER] == "speculative"
    assert report.gated_adapter_sha256
    with pytest.raises(UnsupportedModelError, match="already"):
        convert(out, again, "q8_0", gated_adapter=case.adapter, force=True)
    case.change({f"{UP}.lora_A.weight": np.zeros((4, 60), "f4")})
    with pytest.raises(ModelFileError, match="96x60"):
        convert(plain, again, "q8_0", gated_adapter=case.adapter, force=True)


def test_a_public_llama_file_as_the_source(case: Case, tmp_path: Path) -> None:
    public, out, wanted = (tmp_path / f"{name}.gguf" for name in "abc")
    write_llama(case.gated, public)
    convert(public, out, "f32", gated_adapter=case.adapter)
    convert(case.base, wanted, "f32", gated_adapter=case.adapter)
    ids = np.array([3, 7, 1, 30, MASK, 5, MASK, MASK])
    with edge.load(out) as model, edge.load(wanted) as other:
        assert model.info.architecture == "llama"
        assert np.allclose(model.logits(ids, 5), other.logits(ids, 5), atol=1e-4)


def write_llama(gated: Gated, path: Path) -> None:
    """As llama.cpp's converter does: rows of q and k for a rotation of neighbours."""
    names = {"embed_tokens": "token_embd", "norm": "output_norm"}
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
        "self_attn.o_proj": "attn_output",
        **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    }
    config = gated.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    for name, values in gated.tensors.items():
        own = name.removeprefix("model.").removesuffix(".weight")
        if own.startswith("layers."):
            _, layer, part = own.split(".", 2)
            target = f"blk.{layer}.{parts[part]}"
        else:
            target = names[own]
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(target.split(".")[-1])
        writer.add_tensor(
            f"{target}.weight", values if heads is None else pair_rope_rows(values, heads)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_command(case: Case, tmp_path: Path, edge_convert: Run) -> None:
    out = tmp_path / "out.gguf"
    made = edge_convert(case.base, out, "--gated-adapter", case.adapter, "--type", "q8_0")
    assert made.code == 0
    assert "mask tokens run with the adapter" in made.stderr
    assert open_model(str(out)).metadata[keys.GATE_RANK] == 4

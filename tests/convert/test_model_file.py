"""Model files as sources: public GGUFs as others write them, and our own once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from convert import convert as run
from edge.errors import (
    ModelFileError,
    ModelNotFoundError,
    RequestError,
    UnsupportedModelError,
)
from edge.formats.gguf_file import Header, open_model, read_header

Values = NDArray[Any]
Folder = Any  # conftest.Folder
Make = Callable[..., Folder]
LLADA = {"d_model": 256, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 256, "n_layers": 2}
DREAM = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FLOATS = ("f32", "f16", "bf16")
KINDS = (*FLOATS, "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k")
LAYER = {
    "attn_norm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "attn_out": "attn_output",
    "ff_norm": "ffn_norm",
    "ff_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "ff_out": "ffn_down",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {
    "model.transformer.wte": "token_embd",
    "model.transformer.ln_f": "output_norm",
    "model.transformer.ff_out": "output",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
HEADS = {"attn_q": 4, "attn_k": 2}
IDS = np.random.default_rng(5).integers(0, 39, 21).astype(np.int32)


def public_name(source: str) -> str:
    module, kind = source.rsplit(".", 1)
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    parts = module.split(".")
    number = next(part for part in parts if part.isdigit())
    return f"blk.{number}.{LAYER[module.split(f'.{number}.')[1]]}.{kind}"


def as_blocks(values: Values, kind: str, seed: int) -> tuple[Values, gguf.GGMLQuantizationType]:
    """Bytes as the gguf package makes them; it reads the K types only, so theirs are drawn."""
    type = gguf.GGMLQuantizationType[kind.upper()]
    if not kind.endswith("_k"):
        return gguf.quants.quantize(values, type), type
    random = np.random.default_rng(seed)
    block, size = gguf.GGML_QUANT_SIZES[type]
    blocks = random.integers(0, 256, (len(values), values.shape[1] // block, size), np.uint8)
    for place in (208,) if kind == "q6_k" else (0, 2):
        halves = random.uniform(0.5, 1.5, blocks.shape[:2]).astype(np.float16) / np.float16(8192)
        blocks[..., place : place + 2] = halves.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(len(values), -1), type


def for_adjacent_pairs(rows: Values, heads: int) -> Values:
    """How llama.cpp's converters permute q and k."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write_public(folder: Folder, path: Path, architecture: str, kind: str, **more: Any) -> None:
    """``folder`` as a GGUF of others; its own values become what the file's types hold."""
    writer = gguf.GGUFWriter(path, architecture)
    sizes = {
        "context_length": 48,
        "embedding_length": 256,
        "block_count": 2,
        "feed_forward_length": 256,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    }
    for key, value in sizes.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{architecture}.rope.freq_base", 10000.0)
    writer.add_uint32("tokenizer.ggml.mask_token_id", 39)
    writer.add_uint32("general.file_type", 7)
    for key, value in more.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
        add.get(type(value), writer.add_array)(key.replace("__", "."), value)
    for number, (source, values) in enumerate(folder.tensors.items()):
        name = public_name(source)
        if values.ndim < 2:
            writer.add_tensor(name, values)
            continue
        stored, stored_type = as_blocks(values, kind, number)
        folder.tensors[source] = gguf.quants.dequantize(stored, stored_type).astype(np.float32)
        if architecture == "llada" and (heads := HEADS.get(name.split(".")[-2])):
            stored = for_adjacent_pairs(stored, heads)
        writer.add_tensor(name, stored, raw_dtype=stored_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True)
class Pair:
    """A public file, and the checkpoint that it came from as our f32 file."""

    public: Path
    ours: Path


@pytest.fixture
def pair(folder: Make, dense: Make, tmp_path: Path) -> Callable[..., Pair]:
    def make(architecture: str, kind: str, **more: Any) -> Pair:
        shapes = {"rms_norm_eps": 1e-5}
        source = (
            folder(**LLADA) if architecture == "llada" else dense("DreamModel", **DREAM, **shapes)
        )
        public, ours = tmp_path / f"{architecture}-{kind}.gguf", tmp_path / "ours.gguf"
        write_public(source, public, architecture, kind, **more)
        run(source.write(), ours, "f32")
        return Pair(public, ours)

    return make


def logits(path: Path, activations: str = "f32") -> Values:
    with edge.load(path, activations=activations, threads=1) as model:
        return model.logits(IDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_a_public_file_is_its_checkpoint(
    pair: Callable[..., Pair], tmp_path: Path, architecture: str, kind: str
) -> None:
    made, again = pair(architecture, kind), tmp_path / "again.gguf"
    wanted, public = logits(made.ours), logits(made.public)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(public, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    one, two = edge.inspect(made.public).config, edge.inspect(made.ours).config
    assert one.diffusion.shift_logits == two.diffusion.shift_logits
    assert one.denoiser == two.denoiser
    report = run(made.public, again, "f32")
    assert ("SOURCE is quantized" in " ".join(report.notes)) == (kind not in FLOATS)
    assert_same_weights(again, made.ours)
    np.testing.assert_array_equal(logits(again), wanted)


def assert_same_weights(one_path: Path, two_path: Path) -> None:
    one, two = open_model(one_path), open_model(two_path)
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in two.tensors.items():
        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        read = (file.read_rows(name, 0, rows) for file in (one, two))
        np.testing.assert_array_equal(*read, name)


def told(header: Header) -> dict[str, str]:
    """All but where the weights came from."""
    return {k: str(v) for k, v in header.metadata.items() if not k.startswith("edge.source.")}


@pytest.mark.parametrize("options", [{"type": "q4_0"}, {"type": "int8"}, {"type": "int4"}])
def test_a_float_model_file_converts_as_its_checkpoint_does(
    folder: Make, tmp_path: Path, options: dict[str, Any]
) -> None:
    source = folder(learned_position_table=True, eos_token_id=[38, 37]).write()
    first, direct, twice = (tmp_path / f"{n}.gguf" for n in ("first", "direct", "twice"))
    settings = {"general.name": "a name", "diffusion.factor": "0.8"}
    run(source, first, "f32", overrides=settings)
    run(source, direct, overrides=settings, **options)
    run(first, twice, **options)
    one, two = read_header(direct), read_header(twice)
    assert told(one) == told(two)
    data = [
        path.read_bytes()[header.data_offset :] for path, header in ((direct, one), (twice, two))
    ]
    assert data[0] == data[1]


def test_keys_of_others_stay(pair: Callable[..., Pair], tmp_path: Path) -> None:
    more = {
        "tokenizer__chat_template": "{{ messages }}",
        "general__author": "somebody",
        "general__tags": ["a", "b"],
        "diffusion__eos_ids": [37, 38],
        "tokenizer__ggml__add_bos_token": False,
        "some__numbers": [1.5, 2.5],
    }
    made, again = pair("llada", "q8_0", **more), tmp_path / "again.gguf"
    report = run(made.public, again, "q4_0", overrides={"diffusion.block_length": "8"})
    found = read_header(again).metadata
    assert found["tokenizer.chat_template"] == "{{ messages }}"
    assert (found["general.author"], list(found["general.tags"])) == ("somebody", ["a", "b"])
    assert list(found["diffusion.eos_ids"]) == [37, 38]
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["diffusion.block_length"] == 8
    assert "general.file_type" not in found
    assert any("some.numbers" in note for note in report.notes)
    assert edge.inspect(again).config.diffusion.eos_ids == (37, 38)


def test_a_missing_mask_token_can_be_told(pair: Callable[..., Pair], tmp_path: Path) -> None:
    made, again = pair("llada", "f32"), tmp_path / "again.gguf"
    data = made.public.read_bytes().replace(b"ggml.mask_token_id", b"ggml.mark_token_id")
    made.public.write_bytes(data)
    with pytest.raises(ModelFileError, match="mask_token_id"):
        run(made.public, again, "q8_0")
    run(made.public, again, "q8_0", mask_token_id=36)
    assert edge.inspect(again).config.diffusion.mask_token_id == 36


def test_what_cannot_be_is_refused(pair: Callable[..., Pair], tmp_path: Path) -> None:
    made, out = pair("llada", "f32"), tmp_path / "out.gguf"
    with pytest.raises(RequestError, match="an adapter is merged into a checkpoint folder"):
        run(made.public, out, adapter=tmp_path / "adapter")
    with pytest.raises(RequestError, match="lies in the source"):
        run(made.public, made.public, force=True)
    with pytest.raises(ModelNotFoundError):
        run(tmp_path / "absent.gguf", out)
    whole = made.public.read_bytes()
    made.public.write_bytes(whole.replace(b"llada", b"lladx"))
    with pytest.raises(UnsupportedModelError, match="lladx"):
        run(made.public, out)
    made.public.write_bytes(whole.replace(b"blk.1.ffn_up", b"blk.1.ffn_ux"))
    with pytest.raises(ModelFileError, match=r"missing: blk\.1\.ffn_up.*extra: blk\.1\.ffn_ux"):
        run(made.public, out)
    made.public.write_bytes(whole[:-64])
    with pytest.raises(ModelFileError):
        run(made.public, out)
    assert not out.exists()


def test_values_that_are_not_finite_are_refused(pair: Callable[..., Pair], tmp_path: Path) -> None:
    made, out = pair("llada", "f32"), tmp_path / "out.gguf"
    tensor = read_header(made.public).tensors["blk.1.ffn_up.weight"]
    data = bytearray(made.public.read_bytes())
    data[tensor.offset + 1024 : tensor.offset + 1028] = np.float32(np.nan).tobytes()
    made.public.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"blk\.1\.ffn_up\.weight' holds nan at \[1, 0\]"):
        run(made.public, out)
    assert not out.exists()

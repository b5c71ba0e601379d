"""Writes a Qwen-named checkpoint as a GGUF with the gguf package alone, as others would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from edge import _native

TOP = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
QUANTIZED = {
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}


def target_name(source: str) -> str:
    module, kind = source.rsplit(".", 1)
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, _, index, rest = module.split(".", 3)
    return f"blk.{index}.{IN_LAYER[rest]}.{kind}"


def add_tensor(writer: gguf.GGUFWriter, name: str, values: Any, kind: str) -> None:
    """Matrices as ``kind``; those whose columns 32 does not divide as f16; the rest f32."""
    if values.ndim == 1 or kind == "f32":
        writer.add_tensor(name, values.astype(np.float32))
    elif values.shape[1] % 32:
        writer.add_tensor(name, values.astype(np.float16))
    else:
        stored = _native.quantize(kind, np.ascontiguousarray(values, np.float32))
        writer.add_tensor(name, stored, raw_dtype=QUANTIZED[kind])


def write_gguf(
    folder: Path, out: Path, architecture: str, kind: str, mask_token_id: int, **diffusion: Any
) -> None:
    """``diffusion`` holds the file's ``diffusion.*`` keys."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    heads = config["num_attention_heads"]
    sizes = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config.get("head_dim", config["hidden_size"] // heads),
    }
    writer = gguf.GGUFWriter(out, architecture)
    for key, value in sizes.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    for key, name in (
        ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        ("rope.freq_base", "rope_theta"),
    ):
        writer.add_float32(f"{architecture}.{key}", config[name])
    for key, value in diffusion.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
        add.get(type(value), writer.add_array)(f"diffusion.{key}", value)
    writer.add_uint32("tokenizer.ggml.mask_token_id", mask_token_id)
    for source, values in tensors.items():
        if source != "lm_head.weight" or not np.array_equal(values, embedding):
            add_tensor(writer, target_name(source), values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

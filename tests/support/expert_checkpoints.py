"""Checkpoints with experts in hub layout, of random weights under their published names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from expert_models import DENSE_SIZE, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, MASK, VOCAB, ExpertModel
from numpy.typing import NDArray
from safetensors.numpy import save_file

COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "mask_token_id": MASK,
    "eos_token_id": MASK - 1,
}
_TOPS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_MODULES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"},
    **{f"attn_{x}_norm": f"self_attn.{x}_norm" for x in "qk"},
    "attn_output": "self_attn.o_proj",
    "ffn_gate_inp": "mlp.gate",
    **{f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
    **{f"ffn_{x}_shexp": f"mlp.shared_expert.{x}_proj" for x in ("gate", "up", "down")},
}


def config_of(name: str, model: ExpertModel) -> dict[str, Any]:
    """config.json of the class ``name``."""
    experts = model.experts
    own: dict[str, Any] = {
        "architectures": [name],
        "num_hidden_layers": model.num_layers,
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.num_used,
    }
    if name == "LLaDAMoEModelLM":
        zeros = experts.num_dense_layers
        own |= {
            "model_type": "llada",
            "expert_intermediate_size": experts.size,
            "dense_intermediate_size": DENSE_SIZE,
            "shared_expert_intermediate_size": experts.shared_size or None,
            "moe_layer_freq": [0] * zeros + [1] * (model.num_layers - zeros),
            "moe_router_score_function": experts.scores,
            "moe_router_enable_expert_bias": model.has_bias,
            "norm_topk_prob": True,  # which its class does not heed
            "qk_layernorm": True,
            "partial_rotary_factor": 1,
        }
    else:
        own |= {
            "moe_intermediate_size": experts.size,
            "intermediate_size": DENSE_SIZE,
            "mlp_only_layers": list(range(experts.num_dense_layers)),
            "decoder_sparse_step": 1,
            "norm_topk_prob": experts.renormalises,
        }
    return COMMON | own


def source_tensors(model: ExpertModel, *, fused: bool = False) -> dict[str, NDArray[np.float32]]:
    """Each expert by itself, or gate and up of all experts in one tensor."""
    found: dict[str, NDArray[np.float32]] = {}
    own = model.tensors()
    for target, values in own.items():
        module, kind = target.rsplit(".", 1)
        if module in _TOPS:
            found[f"{_TOPS[module]}.{kind}"] = values
            continue
        _, layer, rest = module.split(".", 2)
        prefix = f"model.layers.{layer}."
        if rest == "exp_probs_b":
            found[prefix + "mlp.expert_bias"] = values
        elif not rest.endswith("_exps"):
            found[f"{prefix}{_MODULES[rest]}.{kind}"] = values
        elif not fused:
            for index, matrix in enumerate(values):
                part = rest.split("_")[1]
                found[f"{prefix}mlp.experts.{index}.{part}_proj.weight"] = matrix
        elif rest == "ffn_down_exps":
            found[prefix + "mlp.experts.down_proj"] = values
        elif rest == "ffn_gate_exps":
            up = own[target.replace("gate", "up")]
            found[prefix + "mlp.experts.gate_up_proj"] = np.concatenate([values, up], axis=1)
    return found


def write_checkpoint(
    folder: Path, name: str, model: ExpertModel, *, fused: bool = False, **changes: Any
) -> Path:
    """``changes`` of config.json; None takes a key out."""
    folder.mkdir()
    config = {k: v for k, v in (config_of(name, model) | changes).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = source_tensors(model, fused=fused)
    save_file(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors"
    )
    return folder

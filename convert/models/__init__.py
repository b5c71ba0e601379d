"""Model families by the architecture string of config.json. A new class is a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from convert.arrangement import QUERY_KEY_VALUE
from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.models import experts, llada, loops
from convert.models.base import Choices, Spec
from convert.models.dense import Family
from edge.errors import UnsupportedModelError

_LLAMA = Family("edge-llama", loops.as_told)
_QWEN2 = Family("edge-qwen2", loops.as_told, qkv_bias=True)
_QWEN3 = Family("edge-qwen3", loops.as_told, qk_norm=True)
_DREAM = replace(_QWEN2, loop=loops.dream, public_name="dream")
_FAST_DLLM = replace(_QWEN2, loop=loops.fast_dllm_v2)
_QWEN3_MOE = Family("edge-qwen3moe", loops.sdar, qk_norm=True, experts=experts.read_qwen3_moe)
_LLADA_MOE = Family(
    "edge-llada-moe",
    loops.llada_moe,
    qk_norm=True,
    public_name="llada-moe",
    experts=experts.read_llada_moe,
    feed_forward_key="dense_intermediate_size",
    source_names=(
        (".mlp.gate.expert_bias", ".mlp.expert_bias"),
        (".shared_experts.", ".shared_expert."),
    ),
)
_LLADA2 = Family(
    "edge-bailingmoe2",
    loops.llada2,
    qk_norm=True,
    note=loops.note_of_llada2,
    experts=experts.read_llada2,
    partial_rotary=True,
    source_names=(
        ("model.embed_tokens.", "model.word_embeddings."),
        (".self_attn.o_proj.", ".attention.dense."),
        (".self_attn.q_norm.", ".attention.query_layernorm."),
        (".self_attn.k_norm.", ".attention.key_layernorm."),
        *((f".self_attn.{x}_proj.weight", f".attention{QUERY_KEY_VALUE}[{x}]") for x in "qkv"),
    ),
)
_RND1 = replace(_QWEN3_MOE, loop=loops.dream, public_name="rnd1")

FAMILIES: dict[str, Callable[[Checkpoint, Choices], Spec]] = {
    "A2DQwen2LMHeadModel": replace(_QWEN2, loop=loops.a2d, note=loops.note_of_a2d).build,
    "A2DQwen3LMHeadModel": replace(_QWEN3, loop=loops.a2d, note=loops.note_of_a2d).build,
    "DreamModel": _DREAM.build,
    "Fast_dLLM_QwenForCausalLM": _FAST_DLLM.build,
    "LLaDA2MoeModelLM": _LLADA2.build,
    "LLaDAMoEModelLM": _LLADA_MOE.build,
    "LLaDAModelLM": llada.build,
    "LlamaForCausalLM": replace(_LLAMA, autoregressive=True).build,
    "NemotronLabsDiffusionModel": replace(
        _LLAMA, loop=loops.nemotron, root="encoder", head="diffusion_head"
    ).build,
    "Qwen2ForCausalLM": replace(_QWEN2, autoregressive=True).build,
    "Qwen3ForCausalLM": replace(_QWEN3, autoregressive=True).build,
    "Qwen3MoeForCausalLM": replace(_QWEN3_MOE, loop=loops.as_told, autoregressive=True).build,
    "RND1": _RND1.build,
    "RND1LM": _RND1.build,
    "SDARForCausalLM": replace(_QWEN3, loop=loops.sdar).build,
    "SDARMoeForCausalLM": _QWEN3_MOE.build,
}

# Those whose committed text attends causally.
_GATED = frozenset({"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})


def build_spec(checkpoint: Checkpoint, choices: Choices) -> Spec:
    """The validated spec of a checkpoint.

    Raises UnsupportedModelError for an unknown architecture, ModelFileError for a broken one.
    """
    name = checkpoint.architecture
    if name not in FAMILIES:
        raise UnsupportedModelError(
            f"architecture {shown(name)} cannot be converted",
            path=checkpoint.config_path,
            hint=f"known architectures: {', '.join(sorted(FAMILIES))}",
        )
    if checkpoint.gate and name not in _GATED:
        raise UnsupportedModelError(
            f"architecture {shown(name)} has no rows to gate",
            path=checkpoint.config_path,
            hint=f"a gated adapter is for one of {', '.join(sorted(_GATED))}",
        )
    spec = FAMILIES[name](checkpoint, choices)
    spec.validate(checkpoint)
    return spec

"""Model families by the architecture string of config.json. A new class is a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.models import llada, loops
from convert.models.base import Choices, Spec
from convert.models.dense import Family
from edge.errors import UnsupportedModelError

_LLAMA = Family("edge-llama", loops.as_told)
_QWEN2 = Family("edge-qwen2", loops.as_told, qkv_bias=True)
_QWEN3 = Family("edge-qwen3", loops.as_told, qk_norm=True)
_DREAM = replace(_QWEN2, loop=loops.dream, public_name="dream")
_FAST_DLLM = replace(_QWEN2, loop=loops.fast_dllm_v2)

FAMILIES: dict[str, Callable[[Checkpoint, Choices], Spec]] = {
    "A2DQwen2LMHeadModel": replace(_QWEN2, loop=loops.a2d, note=loops.note_of_a2d).build,
    "A2DQwen3LMHeadModel": replace(_QWEN3, loop=loops.a2d, note=loops.note_of_a2d).build,
    "DreamModel": _DREAM.build,
    "Fast_dLLM_QwenForCausalLM": _FAST_DLLM.build,
    "LLaDAModelLM": llada.build,
    "LlamaForCausalLM": replace(_LLAMA, autoregressive=True).build,
    "NemotronLabsDiffusionModel": replace(
        _LLAMA, loop=loops.nemotron, root="encoder", head="diffusion_head"
    ).build,
    "Qwen2ForCausalLM": replace(_QWEN2, autoregressive=True).build,
    "Qwen3ForCausalLM": replace(_QWEN3, autoregressive=True).build,
    "SDARForCausalLM": replace(_QWEN3, loop=loops.sdar).build,
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

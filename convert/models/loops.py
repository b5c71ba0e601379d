"""How the published classes of dense denoisers are used: their defaults for diffusion.* keys.

Facts: the generation code published with Dream, dllm (A2D), SDAR, Fast-dLLM v2, LLaDA-MoE and
LLaDA2. A class that
also names autoregressive models has no defaults beyond its lengths: the caller says what it is.
"""

from __future__ import annotations

import re

from convert.json_file import shown
from convert.models.base import Choices, ConfigReader
from edge.errors import UnsupportedModelError
from edge.formats import keys

_BLOCK_LENGTH = 32
_SDAR_BLOCK_LENGTH = 4
_SUB_BLOCK_LENGTH = 8
_THRESHOLD = 0.9
_DRAFT_LENGTH = 8
_LLADA2_THRESHOLD = 0.95
_BLOCKS = "--set diffusion.attention=block"


def dream(config: ConfigReader, choices: Choices, longest: int) -> dict[str, object]:
    """One block as long as the answer; row i - 1 predicts position i."""
    del config, choices  # every loop is asked in the same way
    return {
        keys.SHIFT_LOGITS: True,
        keys.BLOCK_LENGTH: longest,
        keys.BLOCK_ALIGN: "prompt_end",
        keys.SAMPLER: "timestep",
        keys.RANK: "entropy",
    }


def a2d(config: ConfigReader, choices: Choices, longest: int) -> dict[str, object]:
    """Full attention; the twins trained with blocks have the very same config.json."""
    del config, choices, longest
    return {
        keys.BLOCK_LENGTH: _BLOCK_LENGTH,
        keys.BLOCK_ALIGN: "prompt_end",
        keys.SAMPLER: "linear_schedule",
    }


def sdar(config: ConfigReader, choices: Choices, longest: int) -> dict[str, object]:
    """Blocks of ``block_size`` from position 0."""
    del choices
    block_length = config.count("block_size", longest, min(_SDAR_BLOCK_LENGTH, longest))
    return _dynamic_blocks(block_length)


def fast_dllm_v2(config: ConfigReader, choices: Choices, longest: int) -> dict[str, object]:
    """Blocks of ``bd_size`` from position 0, filled by sub-blocks; row i - 1 predicts i."""
    del choices
    block_length = config.count("bd_size", longest, min(_BLOCK_LENGTH, longest))
    name = "sub_block_size" if config.get("small_block_size") is None else "small_block_size"
    sub_block_length = config.count(name, block_length, min(_SUB_BLOCK_LENGTH, block_length))
    return {
        **_dynamic_blocks(block_length),
        keys.SUB_BLOCK_LENGTH: sub_block_length,
        keys.SHIFT_LOGITS: True,
    }


def nemotron(config: ConfigReader, choices: Choices, longest: int) -> dict[str, object]:
    """Blocks behind a causal context, whose last row gives a block's first token."""
    del choices
    block_length = config.count("block_size", longest, min(_BLOCK_LENGTH, longest))
    behind = {keys.ATTENTION: "causal_context", keys.BLOCK_ALIGN: "prompt_end"}
    return {**_dynamic_blocks(block_length), **behind}


def llada_moe(config: ConfigReader, choices: Choices, longest: int) -> dict[str, object]:
    """LLaDA's blocks, counted from the end of the prompt, under full attention."""
    del config, choices, longest
    return {
        keys.BLOCK_LENGTH: _BLOCK_LENGTH,
        keys.BLOCK_ALIGN: "prompt_end",
        keys.SAMPLER: "low_confidence_static",
    }


def llada2(config: ConfigReader, choices: Choices, longest: int) -> dict[str, object]:
    """Blocks from position 0."""
    del choices
    block_length = config.count("block_size", longest, min(_BLOCK_LENGTH, longest))
    return {**_dynamic_blocks(block_length), keys.THRESHOLD: _LLADA2_THRESHOLD}


def note_of_llada2(config: ConfigReader, choices: Choices) -> str:
    """A sentence for the user when only the folder's name tells of training for edits."""
    edits = re.search(r"llada2\.[1-9]", config.checkpoint.folder.resolve().name.lower())
    if edits is None or keys.SAMPLER in choices.settings:
        return ""
    return (
        f"the folder is named {edits[0]}, whose denoisers are trained to correct what they wrote; "
        "config.json cannot say so: convert it with --set diffusion.sampler=joint_threshold"
    )


def as_told(config: ConfigReader, choices: Choices, longest: int) -> dict[str, object]:
    """For classes of autoregressive models: config.json and the caller say the rest."""
    del config, choices, longest
    return {keys.BLOCK_LENGTH: _BLOCK_LENGTH}


def gated(config: ConfigReader, choices: Choices, longest: int) -> dict[str, object]:
    """An autoregressive model whose masked rows, with an adapter, draft what comes next."""
    del config, choices, longest
    return drafting()


def drafting() -> dict[str, object]:
    """How such a model is used."""
    return {
        keys.ATTENTION: "causal_context",
        keys.BLOCK_LENGTH: _DRAFT_LENGTH,
        keys.BLOCK_ALIGN: "prompt_end",
        keys.SHIFT_LOGITS: True,
        keys.SAMPLER: "speculative",
    }


def refuse_untold(config: ConfigReader, choices: Choices) -> None:
    """Raise UnsupportedModelError unless config.json or the caller says it is a denoiser."""
    if config.get("diffusion") is None and keys.ATTENTION not in choices.settings:
        raise UnsupportedModelError(
            f"{shown(config.checkpoint.architecture)} is an autoregressive model, and nothing "
            "says that this one was trained for diffusion",
            path=config.checkpoint.config_path,
            hint=f"if it was, say how it attends: {_BLOCKS} (or full, causal_context)",
        )


def note_of_a2d(config: ConfigReader, choices: Choices) -> str:
    """A sentence for the user when only the folder's name tells of training with blocks."""
    said = config.get("diffusion")
    attention_is_said = keys.ATTENTION in choices.settings or (
        isinstance(said, dict) and said.get("attention") is not None
    )
    if attention_is_said or "bd3lm" not in config.checkpoint.folder.resolve().name.lower():
        return ""
    return (
        "the folder is named bd3lm, yet the model is stored with full attention, as config.json "
        f"cannot say otherwise; if it was trained with blocks, convert it with {_BLOCKS}"
    )


def _dynamic_blocks(block_length: int) -> dict[str, object]:
    return {
        keys.ATTENTION: "block",
        keys.BLOCK_LENGTH: block_length,
        keys.BLOCK_ALIGN: "absolute",
        keys.SAMPLER: "low_confidence_dynamic",
        keys.THRESHOLD: _THRESHOLD,
    }

"""What the user asks for, checked against the model before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from edge import samplers
from edge._native import CancelFlag
from edge.canvas import Canvas, blocks_of
from edge.config import ModelConfig
from edge.errors import ContextLengthError, RequestError
from edge.result import Draft
from edge.samplers.base import Sampler

DEFAULT_MAX_TOKENS = 128


@dataclass(frozen=True)
class GenerateConfig:
    """Options of ``generate``, ``generate_ids`` and ``stream``; None means the file's default.

    max_tokens: cap on new tokens, honoured exactly (128, less where the context ends).
    steps: denoising steps for the whole request, shared out over its blocks.
    steps_per_block: the same per block; give one of the two. Neither: a token per step.
    block_length: how many positions are refined together.
    sampler: name of the rule that picks what to commit, one of ``edge.samplers.names()``.
    threshold: confidence in (0, 1] above which a dynamic sampler commits.
    temperature: 0 takes the most probable token, above that tokens are drawn.
    seed: of the draws, 0 to 2**64 - 1.
    reference: run the model family's published loop exactly: no progress floor, no ban on
        predicting the mask token, every planned step.
    on_step: called with each Draft.
    cancel: set it from any thread to end the request within a layer's time.
    """

    max_tokens: int | None = None
    steps: int | None = None
    steps_per_block: int | None = None
    block_length: int | None = None
    sampler: str | None = None
    threshold: float | None = None
    temperature: float = 0.0
    seed: int = 0
    reference: bool = False
    on_step: Callable[[Draft], None] | None = None
    cancel: CancelFlag | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> GenerateConfig:
        """Raises RequestError for an unknown option or an impossible value."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise RequestError(f"unknown option {unknown[0]!r}", hint=f"use {', '.join(known)}")
        config = cls(**options)
        config.check()
        return config

    def check(self) -> None:
        """Raises RequestError naming the option, what came, what is wanted."""
        for name in ("max_tokens", "steps", "steps_per_block", "block_length"):
            _check_count(name, getattr(self, name))
        _check_number("temperature", self.temperature, 0.0, 1e4)
        if self.threshold is not None:
            _check_number("threshold", self.threshold, 1e-9, 1.0)
        if (
            isinstance(self.seed, bool)
            or not isinstance(self.seed, int)
            or not 0 <= self.seed < 1 << 64
        ):
            raise RequestError(
                f"seed is {self.seed!r}", hint="give a whole number from 0 to 2**64 - 1"
            )
        if self.steps is not None and self.steps_per_block is not None:
            raise RequestError("steps and steps_per_block are both given", hint="give one of them")


@dataclass(frozen=True)
class Plan:
    """A request made definite: the canvas, its blocks, the steps of each, the rule."""

    canvas: Canvas
    blocks: list[tuple[int, int]]
    steps_of_block: list[int]
    sampler_name: str
    sampler: Sampler
    options: GenerateConfig


def plan_request(prompt: Any, options: GenerateConfig, config: ModelConfig) -> Plan:
    """Raises RequestError or ContextLengthError for what the model cannot do."""
    canvas = _make_canvas(prompt, options, config)
    blocks = _blocks(canvas, options, config)
    name = options.sampler or config.diffusion.sampler
    rule = samplers.find(name)
    if options.threshold is not None and not rule.uses_threshold:
        raise RequestError(
            f"threshold has no effect on the sampler {name}",
            hint="leave it out or use low_confidence_dynamic",
        )
    threshold = config.diffusion.threshold if options.threshold is None else options.threshold
    steps = _steps_of_blocks(canvas, blocks, options, config)
    return Plan(canvas, blocks, steps, name, rule(threshold), options)


def _make_canvas(prompt: Any, options: GenerateConfig, config: ModelConfig) -> Canvas:
    diffusion = config.diffusion
    if diffusion.in_place:
        _refuse_lengths(options, diffusion.canvas_length)
        if len(prompt) != diffusion.canvas_length:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, "
                f"the model's canvas {diffusion.canvas_length}",
                hint="give exactly one token per position, mask tokens for the holes",
            )
        return Canvas.in_place(prompt, diffusion.mask_token_id)
    return Canvas.append(
        prompt, _num_new_tokens(len(prompt), options, config), diffusion.mask_token_id
    )


def _refuse_lengths(options: GenerateConfig, canvas_length: int | None) -> None:
    named = {"max_tokens": "--tokens", "block_length": "--block-length"}
    for name, option in named.items():
        if getattr(options, name) is not None:
            raise RequestError(
                f"{name} ({option}) is given, but this model refines one canvas "
                f"of {canvas_length} tokens",
                hint="leave it out",
            )


def _num_new_tokens(prompt_length: int, options: GenerateConfig, config: ModelConfig) -> int:
    room = config.denoiser.context_length - prompt_length
    wanted = options.max_tokens if options.max_tokens is not None else min(DEFAULT_MAX_TOKENS, room)
    if room < 1 or wanted > room:
        raise ContextLengthError(
            f"a prompt of {prompt_length} tokens and {max(wanted, 1)} new ones exceed the model's "
            f"context of {config.denoiser.context_length}",
            hint="shorten the prompt or ask for fewer tokens",
        )
    return wanted


def _blocks(canvas: Canvas, options: GenerateConfig, config: ModelConfig) -> list[tuple[int, int]]:
    if config.diffusion.in_place:
        return [(0, len(canvas))]
    return blocks_of(canvas, options.block_length or config.diffusion.block_length)


def _steps_of_blocks(
    canvas: Canvas, blocks: list[tuple[int, int]], options: GenerateConfig, config: ModelConfig
) -> list[int]:
    if options.steps is not None:
        if options.steps < len(blocks):
            raise RequestError(
                f"steps is {options.steps}, but there are {len(blocks)} blocks",
                hint="give at least one step per block, or a larger block_length",
            )
        share, remainder = divmod(options.steps, len(blocks))
        return [share + (b < remainder) for b in range(len(blocks))]
    per_block = options.steps_per_block or config.diffusion.steps_per_block
    return [per_block or max(1, len(canvas.holes(*block))) for block in blocks]


def _check_count(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"{name} is {value!r}", hint="give a whole number of at least 1")


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise RequestError(f"{name} is {value!r}", hint=f"give a number from {low:g} to {high:g}")

"""What the user asks for, checked against the model before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import early_stop, samplers
from edge._native import CancelFlag
from edge.canvas import Block, Canvas, blocks_of
from edge.config import RANKS, ModelConfig
from edge.dual_cache import DEFAULT_WINDOW, DualCache
from edge.errors import ContextLengthError, RequestError
from edge.result import Draft
from edge.samplers.base import Sampler, SamplerOptions

DEFAULT_MAX_TOKENS = 128
EOS_RULES = ("stop", "late", "forbid")
ON_TIGHT = ("shorten", "coarse")
ON_INFEASIBLE = ("best_effort", "error")
CACHES = ("exact", "dual")
EARLY_STOPS = ("none", *early_stop.RULES)
REMASKS = ("none", "conf")

_KINDS: dict[str, Any] = {
    "sampler": str,
    "fused": bool,
    "credit": bool,
    "reference": bool,
    "on_step": Callable,
    "cancel": CancelFlag,
}
_ALWAYS = ("temperature", "guidance", "reference")  # have a default of their own, not None
_CHOICES = {
    "rank": RANKS,
    "eos": EOS_RULES,
    "cache": CACHES,
    "early_stop": EARLY_STOPS,
    "remask": REMASKS,
    "on_tight": ON_TIGHT,
    "on_infeasible": ON_INFEASIBLE,
}
_COUNTS = ("max_tokens", "steps", "steps_per_block", "block_length", "top_k", "cache_window")
_TINY = 1e-9
_RANGES = {
    "temperature": (0.0, 1e4),
    "threshold": (_TINY, 1.0),
    "segment_threshold": (_TINY, 1.0),
    "factor": (_TINY, 1e9),
    "entropy_bound": (_TINY, 1e9),
    "top_p": (_TINY, 1.0),
    "guidance": (0.0, 1e3),
    "budget_ms": (_TINY, 1e12),
    "deadline": (-1e12, 1e12),
}


@dataclass(frozen=True)
class GenerateConfig:
    """Options of ``generate``, ``generate_ids`` and ``stream``; None means the file's default.

    max_tokens: cap on new tokens, honoured exactly (128, less where the context ends).
    steps: denoising steps for the whole request, shared out over its blocks.
    steps_per_block: the same per block; give one of the two. Neither: a token per step.
    block_length: how many positions are refined together.
    sampler: name of the rule that picks what to commit, one of ``edge.samplers.names()``.
    threshold: confidence in (0, 1] above which ``low_confidence_dynamic``, ``block_refinement``
        and ``hierarchical`` commit.
    segment_threshold: of ``hierarchical``, for the best of a run of holes (0.4).
    factor: of the sampler ``factor``; larger commits more at once.
    entropy_bound: nats, of the sampler ``entropy_bounded``.
    rank: what makes a position sure: confidence, margin, entropy or random.
    temperature: 0 takes the most probable token, above that tokens are drawn.
    top_k, top_p: draw among the k most probable tokens, among the fewest that reach p.
    seed: of the draws, 0 to 2**64 - 1.
    guidance: scale of classifier-free guidance, 0 for none; doubles the forwards.
    eos: "stop" ends the answer at an end token once all before it is committed, "late" commits
        end tokens last, "forbid" never.
    early_stop: "stable" fills the rest of a block once its candidates stay the same, "schedule"
        once the mean logit margin is large for the progress made; "none" (default).
    remask: "conf" spends planned steps that are left over, or time of a latency budget that
        nothing else can use, on masking the least sure tokens of the answer and deciding them
        anew; "none" (default). Text is then given out late.
    credit: raise the logits of candidates that stay first over the steps, so that they are
        committed sooner; needs temperature 0.
    cache: "exact" reuses only what cannot change; "dual" (fully bidirectional models) computes
        the block and its surroundings against older keys and values: faster, approximate.
    cache_window: of "dual", how many tokens on either side of the block are computed (16).
    fused: store a finished block (and the prompt) in the first forward of the next one: same
        results, fewer forwards. Default: where that is exact.
    budget_ms: latency budget in ms, counted from the entry of the call; the answer is done by then.
        ``steps`` and ``steps_per_block`` are then upper bounds; without them the budget decides.
    deadline: the same as an instant of ``time.monotonic()``; give one of the two.
    on_tight: where not every block can have its step: "shorten" the answer, or keep its length by
        denoising several blocks at once ("coarse"; models that attend in blocks or causally).
    on_infeasible: what a budget too short for anything means: "best_effort", the least answer
        possible, late; or "error", a BudgetError.
    reference: run the model family's published loop exactly: no progress floor, no ban on
        predicting the mask token, every planned step, every store forward.
    on_step: called with each Draft.
    cancel: set it from any thread to end the request within a layer's time.
    """

    max_tokens: int | None = None
    steps: int | None = None
    steps_per_block: int | None = None
    block_length: int | None = None
    sampler: str | None = None
    threshold: float | None = None
    segment_threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    rank: str | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    guidance: float = 0.0
    eos: str = "stop"
    early_stop: str = "none"
    remask: str = "none"
    credit: bool = False
    cache: str = "exact"
    cache_window: int | None = None
    fused: bool | None = None
    budget_ms: float | None = None
    deadline: float | None = None
    on_tight: str = "shorten"
    on_infeasible: str = "best_effort"
    reference: bool = False
    on_step: Callable[[Draft], None] | None = None
    cancel: CancelFlag | None = None

    @property
    def has_budget(self) -> bool:
        """Whether there is a time by which the answer has to be there."""
        return self.budget_ms is not None or self.deadline is not None

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
        for name in _COUNTS:
            _check_count(name, getattr(self, name))
        for name, (low, high) in _RANGES.items():
            _check_number(name, getattr(self, name), low, high)
        for name, allowed in _CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        for name, kind in _KINDS.items():
            _check_kind(name, getattr(self, name), kind)
        if not _is_whole(self.seed) or not 0 <= self.seed < 1 << 64:
            raise RequestError(
                f"seed is {self.seed!r}", hint="give a whole number from 0 to 2**64 - 1"
            )
        if self.steps is not None and self.steps_per_block is not None:
            raise RequestError("steps and steps_per_block are both given", hint="give one of them")
        self._check_together()

    def _check_together(self) -> None:
        if self.budget_ms is not None and self.deadline is not None:
            raise RequestError("budget_ms and deadline are both given", hint="give one of them")
        if self.reference and self.has_budget:
            raise RequestError(
                "reference is given with a latency budget, which it does not keep",
                hint="leave one of them out",
            )
        for name in ("credit", "early_stop", "remask", "fused", "cache"):
            is_off = getattr(self, name) in (None, False, "none", "exact")
            if self.reference and not is_off:
                raise RequestError(
                    f"{name} and reference are both given, but no published loop has it",
                    hint="give one of them",
                )
        if self.credit and self.temperature > 0:
            raise RequestError(
                "credit is given, but temperature is not 0", hint="leave one of them out"
            )
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise RequestError(
                "top_k or top_p is given, but temperature is 0, so nothing is drawn",
                hint="leave them out or give a temperature",
            )


@dataclass(frozen=True)
class Part:
    """Positions ``start`` to before ``stop`` of a block that are filled in ``steps`` steps."""

    start: int
    stop: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """A request made definite: the canvas, its blocks, their parts and steps, the rule."""

    canvas: Canvas
    blocks: list[Block]
    parts: list[list[Part]]  # of each block
    sampler_name: str
    sampler: Sampler
    sampler_options: SamplerOptions
    fused: bool  # finished blocks are stored by the first forward of the next one
    options: GenerateConfig

    def dual_cache(self) -> DualCache | None:
        """Fresh decisions about approximate reuse; None: exact reuse only."""
        if self.options.cache != "dual":
            return None
        window = self.options.cache_window
        return DualCache(len(self.canvas), DEFAULT_WINDOW if window is None else window)


def plan_request(prompt: NDArray[np.int32], options: GenerateConfig, config: ModelConfig) -> Plan:
    """Raises RequestError or ContextLengthError for what the model cannot do."""
    _check_cache(options, config)
    canvas = _make_canvas(prompt, options, config)
    blocks = _blocks(canvas, options, config)
    if options.guidance and config.diffusion.caches:
        raise RequestError(
            f"guidance is given, but this model's attention is {config.diffusion.attention}",
            hint="leave it out; it works with full attention",
        )
    name = config.diffusion.sampler if options.sampler is None else options.sampler
    chosen = _sampler_options(name, options, config)
    sampler = samplers.find(name)(chosen)
    parts = _parts(canvas, blocks, options, config)
    fused = _fuses(options, config)
    return Plan(canvas, blocks, parts, name, sampler, chosen, fused, options)


def _fuses(options: GenerateConfig, config: ModelConfig) -> bool:
    if options.fused and not config.diffusion.fuses:
        raise RequestError(
            "fused is asked for, but this model keeps no blocks or needs a row of their store "
            "forward",
            hint="leave it out",
        )
    return config.diffusion.fuses and options.fused is not False and not options.reference


def _check_cache(options: GenerateConfig, config: ModelConfig) -> None:
    diffusion = config.diffusion
    if options.cache != "dual":
        if options.cache_window is not None:
            raise RequestError(
                "cache_window is given, but cache is exact", hint="leave it out or use dual"
            )
        return
    problem = None
    if diffusion.caches:
        problem = f"this model's attention is {diffusion.attention}: its cache is exact"
    elif diffusion.in_place:
        problem = "this model refines its whole canvas at once, so nothing stands still"
    elif options.guidance:
        problem = "guidance is given, which computes two canvases"
    if problem is not None:
        raise RequestError(f"cache is dual, but {problem}", hint="leave it out")


def _sampler_options(name: str, options: GenerateConfig, config: ModelConfig) -> SamplerOptions:
    chosen: dict[str, Any] = {"seed": options.seed}
    for parameter in ("threshold", "segment_threshold", "factor", "entropy_bound", "rank"):
        given = getattr(options, parameter)
        if given is not None and parameter not in samplers.find(name).uses:
            fitting = [n for n in samplers.names() if parameter in samplers.find(n).uses]
            raise RequestError(
                f"{parameter} has no effect on the sampler {name}",
                hint=f"leave it out or use {' or '.join(fitting)}",
            )
        of_file = getattr(config.diffusion, parameter, None)  # not every one has a key
        if given is not None or of_file is not None:
            chosen[parameter] = of_file if given is None else given
    return SamplerOptions(**chosen)


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


def _blocks(canvas: Canvas, options: GenerateConfig, config: ModelConfig) -> list[Block]:
    diffusion = config.diffusion
    if diffusion.in_place:
        return [Block(0, len(canvas), 0, whole=True)]
    length = options.block_length or diffusion.block_length
    if diffusion.attention == "block" and length != diffusion.block_length:
        raise RequestError(
            f"block_length is {length}, but this model attends in blocks of "
            f"{diffusion.block_length}",
            hint="leave it out",
        )
    absolute = diffusion.block_align == "absolute" and diffusion.attention == "block"
    return blocks_of(canvas, length, 0 if absolute else canvas.output_start)


def _parts(
    canvas: Canvas, blocks: list[Block], options: GenerateConfig, config: ModelConfig
) -> list[list[Part]]:
    steps_of_block = _steps_of_blocks(len(blocks), options, config)
    parts = []
    for block, steps in zip(blocks, steps_of_block, strict=True):
        spans = block.parts(config.diffusion.sub_block_length)
        shares = _shared_out(max(steps, len(spans)), len(spans)) if steps else [0] * len(spans)
        parts.append(
            [
                Part(start, stop, share or max(1, len(canvas.holes(start, stop))))
                for (start, stop), share in zip(spans, shares, strict=True)
            ]
        )
    return parts


def _steps_of_blocks(num_blocks: int, options: GenerateConfig, config: ModelConfig) -> list[int]:
    """Steps of each block; 0 stands for a token per step."""
    if options.steps is None:
        per_block = options.steps_per_block or config.diffusion.steps_per_block
        return [per_block or 0] * num_blocks
    if options.steps < num_blocks:
        raise RequestError(
            f"steps is {options.steps}, but there are {num_blocks} blocks",
            hint="give at least one step per block, or a larger block_length",
        )
    return _shared_out(options.steps, num_blocks)


def _shared_out(total: int, count: int) -> list[int]:
    share, remainder = divmod(total, count)
    return [share + (i < remainder) for i in range(count)]


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_count(name: str, value: Any) -> None:
    if value is not None and (not _is_whole(value) or value < 1):
        raise RequestError(f"{name} is {value!r}", hint="give a whole number of at least 1")


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if value is None and name not in _ALWAYS:
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # NaN is in no range
        raise RequestError(f"{name} is {value!r}", hint=f"give a number from {low:g} to {high:g}")


def _check_kind(name: str, value: Any, kind: Any) -> None:
    if (value is not None or name in _ALWAYS) and not isinstance(value, kind):
        raise RequestError(f"{name} is {value!r}", hint=f"give a {kind.__name__}")


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise RequestError(f"{name} is {value!r}", hint=f"use {', '.join(allowed)}")

"""A request made definite: fitted to the model before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import samplers
from edge.canvas import Block, Canvas, blocks_of
from edge.config import DiffusionConfig, ModelConfig
from edge.costs import KNOTS
from edge.dual_cache import DEFAULT_WINDOW, DualCache
from edge.errors import ContextLengthError, RequestError
from edge.request import GenerateConfig
from edge.samplers.base import Sampler, SamplerOptions

DEFAULT_MAX_TOKENS = 128
_PARAMETERS = (
    "threshold",
    "segment_threshold",
    "factor",
    "entropy_bound",
    "rank",
    "edit_threshold",
    "post_edit_steps",
)
CHUNK = KNOTS[-1]  # most rows of a forward that stores the prompt: as many as are ever measured


@dataclass(frozen=True)
class Part:
    """Positions ``start`` to before ``stop`` of a block that are filled in ``steps`` steps."""

    start: int
    stop: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """The canvas of a request, its blocks, their parts and steps, the rule."""

    canvas: Canvas
    blocks: list[Block]
    parts: list[list[Part]]  # of each block
    sampler_name: str
    sampler: Sampler
    sampler_options: SamplerOptions
    fused: bool  # finished blocks are stored by the first forward of the next one
    options: GenerateConfig
    num_reused: int = 0  # positions that an earlier request has stored

    def prefill_stops(self, diffusion: DiffusionConfig) -> list[int]:
        """Where forwards that only store the prompt end; a fused first step stores the rest.

        They store chunks, so that a long prompt needs no more memory than a short one and can be
        stopped. Chunks end at the model's block borders, so that no row misses what it attends to;
        the bits are those of a single forward, which is what the published loops do.
        """
        origin = self.blocks[0].origin
        if not diffusion.caches or origin == 0:
            return []
        length = diffusion.block_length if diffusion.attention == "block" else 1
        size = origin if self.options.reference else max(1, CHUNK // length) * length
        stops = list(range(origin % size or size, origin + 1, size))
        ends = stops[:-1] if self.fused else stops
        return [stop for stop in ends if stop > self.num_reused]

    def dual_cache(self) -> DualCache | None:
        """Fresh decisions about approximate reuse; None: exact reuse only."""
        if self.options.cache != "dual":
            return None
        window = self.options.cache_window
        return DualCache(len(self.canvas), DEFAULT_WINDOW if window is None else window)


def plan_request(prompt: NDArray[np.int32], options: GenerateConfig, config: ModelConfig) -> Plan:
    """Raises RequestError or ContextLengthError for what the model cannot do."""
    return plan_canvas(_make_canvas(prompt, options, config), options, config)


def plan_canvas(canvas: Canvas, options: GenerateConfig, config: ModelConfig) -> Plan:
    """The same for a canvas that is there already."""
    _check_cache(options, config)
    if config.diffusion.in_place:
        _refuse_lengths(options, config.diffusion.canvas_length)
    blocks = _blocks(canvas, options, config)
    if options.guidance and config.diffusion.caches:
        raise RequestError(
            f"guidance is given, but this model's attention is {config.diffusion.attention}",
            hint="leave it out; it works with full attention",
        )
    name = config.diffusion.sampler if options.sampler is None else options.sampler
    chosen = _sampler_options(name, options, config)
    # Of a form it takes the leftmost hole first, in the loop of all others, unless asked for.
    if samplers.decodes_in_order(name) and (options.sampler or not canvas.is_form):
        _check_in_order(name, canvas, options, config)
    sampler = samplers.find(name)(chosen)
    parts = _parts(canvas, blocks, options, config)
    fused = _fuses(options, config)
    return Plan(canvas, blocks, parts, name, sampler, chosen, fused, options)


def _check_in_order(
    name: str, canvas: Canvas, options: GenerateConfig, config: ModelConfig
) -> None:
    """Refuse what has no meaning, or no effect, where the loop goes from left to right."""
    if config.diffusion.attention != "causal_context":
        raise RequestError(
            f"the sampler {name} needs a model that reads causally, and this one's attention is "
            f"{config.diffusion.attention}",
            hint="choose another sampler",
        )
    if canvas.is_form:
        raise RequestError(
            f"the sampler {name} goes on with a text and fills no holes",
            hint="choose another sampler",
        )
    if canvas.output_start == 0:
        raise RequestError(
            f"the prompt is empty, and the sampler {name} only says what comes after something",
            hint="give at least one token",
        )
    unused = ["steps", "steps_per_block", "early_stop", "remask", "credit", "reference"]
    unused += [] if samplers.drafts(name) else ["block_length"]
    given = [option for option in unused if getattr(options, option) not in (None, False, "none")]
    given += ["fused"] * (options.fused is not None)
    given += ["eos late"] * (options.eos == "late")
    given += ["on_tight coarse"] * (options.on_tight == "coarse")
    if given:
        raise RequestError(f"{given[0]} has no effect on the sampler {name}", hint="leave it out")


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
    preset = _preset(name, options)
    for parameter in _PARAMETERS:
        given = getattr(options, parameter)
        if given is not None:
            _require_use(name, parameter)
        of_file = getattr(config.diffusion, parameter, None)  # not every one has a key
        of_file = preset.get(parameter, of_file)
        if given is not None or of_file is not None:
            chosen[parameter] = of_file if given is None else given
    return SamplerOptions(**chosen)


def _preset(name: str, options: GenerateConfig) -> Mapping[str, float]:
    """What the preset says of the sampler's parameters, nothing without one."""
    if options.preset is None:
        return {}
    _require_use(name, "preset")
    return samplers.presets(name)[options.preset]


def _require_use(name: str, parameter: str) -> None:
    if parameter not in samplers.find(name).uses:
        fitting = [n for n in samplers.names() if parameter in samplers.find(n).uses]
        raise RequestError(
            f"{parameter} has no effect on the sampler {name}",
            hint=f"leave it out or use {' or '.join(fitting)}",
        )


def _make_canvas(prompt: Any, options: GenerateConfig, config: ModelConfig) -> Canvas:
    diffusion = config.diffusion
    if diffusion.in_place:
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
    start = canvas.output_start
    if canvas.is_form and not diffusion.caches and options.block_length is None:
        return [Block(start, len(canvas), start, whole=True)]
    length = options.block_length or diffusion.block_length
    if diffusion.attention == "block" and length != diffusion.block_length:
        raise RequestError(
            f"block_length is {length}, but this model attends in blocks of "
            f"{diffusion.block_length}",
            hint="leave it out",
        )
    absolute = diffusion.block_align == "absolute" and diffusion.attention == "block"
    blocks = blocks_of(canvas, length, 0 if absolute else start)
    # What a model keeps has to be stored block by block; otherwise text between holes is no block.
    return [b for b in blocks if diffusion.caches or len(canvas.holes(b.start, b.stop))]


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

"""A clock and a denoiser whose times the test decides, around the shipped loop and controller."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.backends.base import Cache, Mask, StepRequest
from edge.canvas import Canvas, RowStats
from edge.config import ModelConfig, read_config
from edge.costs import StepCosts
from edge.engine import Engine
from edge.formats.gguf_file import Header
from edge.generator import Generation
from edge.in_order import InOrder
from edge.plan import plan_canvas, plan_request
from edge.profile import Identity
from edge.request import GenerateConfig
from edge.result import Done, Draft, Result
from edge.samplers import decodes_in_order
from edge.timing import Timing

MASK, EOS = 256, 257
MS = 1_000_000
NUM_LAYERS = 30
_METADATA: dict[str, Any] = {
    "general.architecture": "edge-qwen3",
    "edge-qwen3.context_length": 4096,
    "edge-qwen3.embedding_length": 512,
    "edge-qwen3.block_count": NUM_LAYERS,
    "edge-qwen3.feed_forward_length": 1536,
    "edge-qwen3.attention.head_count": 8,
    "edge-qwen3.attention.layer_norm_rms_epsilon": 1e-5,
    "edge-qwen3.vocab_size": 264,
    "diffusion.block_length": 32,
    "diffusion.attention": "block",
    "diffusion.eos_ids": [EOS],
    "edge.num_tokens": 258,
    "tokenizer.ggml.mask_token_id": MASK,
}


class Clock:
    """Stands still unless somebody works."""

    def __init__(self) -> None:
        self.now_ns = 10**15

    def __call__(self) -> int:
        return self.now_ns


Ints = NDArray[np.int32]
Denoise = Callable[[Ints, Ints], tuple[Ints, NDArray[np.float32]]]  # of ids and positions


class TimedCache(list[int]):
    def truncate(self, length: int) -> None:
        """Nothing is kept, so nothing is forgotten."""


@dataclass
class Timed:
    """A backend whose forwards take predicted time times what ``noise`` yields next.

    It polls its deadline between layers, as the native one does, unless ``polls`` is off.
    """

    clock: Clock
    costs: StepCosts
    noise: Iterator[float]
    denoise: Denoise
    polls: bool = True
    requests: list[StepRequest] = field(default_factory=list)
    starts_ns: list[int] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)
    name: str = "timed"
    isa: str = "none"
    threads: int = 2
    stoppable: bool = True

    def forward(self, request: StepRequest) -> RowStats | None:
        start, positions = self.clock(), request.positions
        context = int(positions[0]) if request.cache is not None else 0
        predicted = self.costs.predict(len(positions), context, len(request.head_rows))
        factor = next(self.noise)
        time_ns = int(predicted * factor)
        head_ns = int(time_ns - self.costs.predict(len(positions), context, 0) * factor)
        stop = self._stop_ns(request.deadline_ns, time_ns) if self.polls else None
        self.clock.now_ns += time_ns if stop is None else stop
        self.requests.append(replace(request, ids=request.ids.copy()))
        self.starts_ns.append(start)
        self.times_ns.append(self.clock() - start)
        self.stopped.append(stop is not None)
        return self._rows(request, head_ns) if stop is None else None

    def _stop_ns(self, deadline_ns: int, time_ns: int) -> int | None:
        left = deadline_ns - self.clock()
        if deadline_ns == 0 or left >= time_ns:
            return None
        layer = time_ns / NUM_LAYERS
        return int(math.ceil(max(0, left) / layer) * layer)

    def _rows(self, request: StepRequest, head_ns: int) -> RowStats:
        at = request.head_rows
        tokens, confidence = self.denoise(request.ids, request.positions)
        chosen = confidence[at].astype(np.float32)
        rows = RowStats(request.positions[at], tokens[at], chosen, chosen, 1 - chosen)
        return replace(rows, head_ns=head_ns)

    def new_cache(self, capacity: int) -> Cache:
        return TimedCache([capacity])

    def logits(self, ids: NDArray[np.int32], mask: Mask) -> NDArray[np.float32]:
        raise AssertionError((ids, mask))

    def close(self) -> None:
        pass


def unsure(ids: Ints, _positions: Ints) -> tuple[Ints, NDArray[np.float32]]:
    """Token 1 everywhere, never sure of it, the first least."""
    return np.ones(len(ids), np.int32), np.linspace(0.2, 0.6, len(ids), dtype=np.float32)


def still() -> Iterator[float]:
    """A device that takes exactly the predicted time."""
    while True:
        yield 1.0


@dataclass
class Run:
    """One request, as it went."""

    result: Result
    drafts: list[Draft]
    backend: Timed
    timing: Timing

    @property
    def missed(self) -> bool:
        over = self.result.stats.overshoot_ms
        return over is not None and over > 1e-6


def flat_costs(step_ms: float, store_ms: float, source: str = "calibration") -> StepCosts:
    """Every forward of up to 32 rows takes ``store_ms``, the head the rest of ``step_ms``."""
    body = ((1, store_ms * MS), (32, store_ms * MS), (4096, store_ms * MS * 128))
    head = ((1, (step_ms - store_ms) * MS), (4096, (step_ms - store_ms) * MS))
    return StepCosts(body, head, 0.0, source)


@pytest.fixture(scope="session")
def timed_config() -> Callable[..., ModelConfig]:
    """``timed_config(attention="full")``: a block model of 32 with changes."""
    base = read_config(Header("timed.gguf", _METADATA, {}, 0, 0))

    def make(**changes: Any) -> ModelConfig:
        known = {f.name for f in fields(base.diffusion)}
        diffusion = {name: value for name, value in changes.items() if name in known}
        return replace(base, diffusion=replace(base.diffusion, **diffusion))

    return make


@pytest.fixture(scope="session")
def timed(timed_config: Callable[..., ModelConfig]) -> Callable[..., Run]:
    """``timed(budget_ms=..., config={}, noise=..., costs=..., ...)``: run a request to its end."""

    def run(
        *,
        prompt: Any = (),
        config: dict[str, Any] | None = None,
        costs: StepCosts | None = None,
        known: StepCosts | None = None,
        noise: Iterator[float] | None = None,
        denoise: Denoise = unsure,
        polls: bool = True,
        timing: Timing | None = None,
        consumer_ns: Callable[[], int] = lambda: 0,
        canvas: Canvas | None = None,
        num_reused: int = 0,
        **options: Any,
    ) -> Run:
        made = timed_config(**(config or {}))
        real = costs or flat_costs(100, 84)
        clock = Clock()
        backend = Timed(clock, real, noise or still(), denoise, polls)
        if timing is None:
            timing = Timing(made, 2, lambda: Identity("", "", 2, "", "", "", ""), stoppable=polls)
            timing.use(known or real)
        asked = GenerateConfig.of(options)
        if canvas is None:
            plan = plan_request(np.array(prompt, np.int32), asked, made)
        else:
            plan = plan_canvas(canvas, asked, made)
        plan = replace(plan, num_reused=num_reused)
        loop = InOrder if decodes_in_order(plan.sampler_name) else Generation
        generation = loop(Engine(backend, made), None, plan, clock(), timing, None, clock)
        drafts = []
        for event in generation.run():
            if isinstance(event, Draft):
                drafts.append(event)
            if isinstance(event, Done):
                return Run(event.result, drafts, backend, timing)
            clock.now_ns += consumer_ns()
        raise AssertionError("no end")

    return run

"""Requests of every regime on a simulated device, for the fixture ``timed``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings

from edge.costs import StepCosts

Timed = Callable[..., Any]
MASK, EOS, MS = 256, 257, 1_000_000
KINDS: dict[str, dict[str, Any]] = {
    "block": {},
    "absolute": {"block_align": "absolute"},
    "shifted": {"shift_logits": True},
    "causal_context": {"attention": "causal_context", "shift_logits": True},
    "sub_blocks": {"sub_block_length": 8},
    "full": {"attention": "full"},
    "in_place": {"attention": "full", "canvas": "in_place", "canvas_length": 40},
}
COSTS = StepCosts(
    body=((1, 40 * MS), (32, 60 * MS), (256, 400 * MS)),
    head=((1, 2 * MS), (64, 30 * MS)),
    attention_ns=300.0,
    source="calibration",
)
often = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def jitter(seed: int, sigma: float) -> Iterator[float]:
    """Factors on the time of each forward."""
    random = np.random.default_rng(seed)
    while True:
        yield float(np.exp(sigma * random.normal()))


def ask(timed: Timed, kind: str, **options: Any) -> Any:
    """A request for 100 tokens after a prompt of 20, or for a canvas of 40 with holes."""
    config = {"eos_ids": (), **KINDS[kind], **options.pop("config", {})}
    options = {"config": config, "costs": COSTS, **options}
    if kind == "in_place":
        return timed(prompt=[MASK if i % 4 else 7 for i in range(40)], **options)
    return timed(prompt=[7] * 20, max_tokens=100, **options)

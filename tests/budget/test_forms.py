"""Holes in a text under a budget: whatever happens, the text around them stays."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from simulated import COSTS, EOS, KINDS, MASK, MS, Timed, jitter, often

from edge.canvas import Canvas

TEXT = 7


def form(spans: list[tuple[int, int]], length: int, start: int) -> Canvas:
    return Canvas.form(np.full(length, TEXT, np.int32), spans, start, MASK, (EOS,))


@st.composite
def full_forms(draw: st.DrawFn) -> Canvas:
    """Holes anywhere in a text; full attention."""
    borders = sorted(draw(st.sets(st.integers(0, 120), min_size=2, max_size=8)))
    spans = list(zip(borders[::2], borders[1::2], strict=False))
    return form(spans, borders[-1] + draw(st.integers(0, 10)), spans[0][0])


@often
@given(
    canvas=full_forms(),
    budget_ms=st.floats(1, 6_000),
    seed=st.integers(0, 999),
    more=st.sampled_from(
        [{}, {"remask": "conf"}, {"block_length": 8}, {"cache": "dual", "block_length": 16}]
    ),
)
def test_full_attention(
    timed: Timed, canvas: Canvas, budget_ms: float, seed: int, more: dict[str, Any]
) -> None:
    length, given_at = len(canvas), canvas.given.copy()
    config = {"eos_ids": (), **KINDS["full"]}
    run = timed(
        canvas=canvas,
        config=config,
        costs=COSTS,
        budget_ms=budget_ms,
        noise=jitter(seed, 0.2),
        **more,
    )
    result = run.result
    assert (canvas.ids[given_at] == TEXT).all()
    assert all(len(request.ids) <= length for request in run.backend.requests)
    assert "dual" in more.values() or all(len(r.ids) == length for r in run.backend.requests)
    assert result.complete == (MASK not in canvas.ids)
    assert result.status in ("complete", "filled", "shortened", "deadline_infeasible")
    if "block_length" not in more:
        assert result.complete  # one forward that looked at all holes is enough
    if run.missed:
        layer_ms = max(run.backend.times_ns) / MS / 10
        late = result.status == "deadline_infeasible"
        assert late or result.stats.overshoot_ms <= layer_ms or result.stats.nfe == 1


@often
@given(
    kind=st.sampled_from(["block", "absolute", "shifted", "causal_context", "sub_blocks"]),
    before=st.integers(0, 300),
    hole=st.integers(1, 20),
    budget_ms=st.floats(1, 3_000),
    seed=st.integers(0, 999),
)
def test_inside_a_block(
    timed: Timed, kind: str, before: int, hole: int, budget_ms: float, seed: int
) -> None:
    first = before // 32 * 32 + 4 if kind == "absolute" else before + 1
    start = first if kind in ("absolute", "block", "sub_blocks") else first - 1
    canvas = form([(first, first + hole)], first + hole + 4, start)
    config = {"eos_ids": (), **KINDS[kind]}
    run = timed(
        canvas=canvas, config=config, costs=COSTS, budget_ms=budget_ms, noise=jitter(seed, 0.2)
    )
    assert (canvas.ids[canvas.given] == TEXT).all()
    assert run.result.complete == (MASK not in canvas.ids)
    # What follows the hole is in every step's sight.
    steps = [request for request in run.backend.requests if len(request.head_rows)]
    assert all(request.positions[-1] == first + hole + 3 for request in steps)

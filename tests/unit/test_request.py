"""What a request may ask for, and the plan that it becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import _native
from edge.errors import ContextLengthError, RequestError
from edge.plan import DEFAULT_MAX_TOKENS, Plan
from edge.request import GenerateConfig

MASK = 256
IN_PLACE = {"canvas": "in_place", "canvas_length": 6}
Planned = Callable[..., Plan]

NOT_COUNTS: tuple[Any, ...] = (0, -1, 1.0, "4", True, [4], float("nan"))
NOT_TEMPERATURES: tuple[Any, ...] = (-0.1, float("nan"), float("inf"), "1", True, 1e5, [1])
NOT_THRESHOLDS: tuple[Any, ...] = (0, 0.0, -0.5, 1.01, float("nan"), "0.9", True)
NOT_SEEDS: tuple[Any, ...] = (-1, 1 << 64, 1.0, "1", True, None)


def steps_of(plan: Plan) -> list[int]:
    return [sum(part.steps for part in parts) for parts in plan.parts]


def spans_of(plan: Plan) -> list[tuple[int, int]]:
    return [(block.start, block.stop) for block in plan.blocks]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("temperature", 10**400, id="temperature-huge"),
        *(("max_tokens", value) for value in NOT_COUNTS),
        *(("steps", value) for value in NOT_COUNTS),
        *(("steps_per_block", value) for value in NOT_COUNTS),
        *(("block_length", value) for value in NOT_COUNTS),
        *(("temperature", value) for value in (*NOT_TEMPERATURES, None)),
        *(("threshold", value) for value in NOT_THRESHOLDS),
        *(("seed", value) for value in NOT_SEEDS),
        *(("sampler", value) for value in ("", "fast", 5, ["low_confidence_static"])),
        *(("reference", value) for value in ("no", 1, None)),
        *(("on_step", value) for value in (5, "print")),
        *(("cancel", value) for value in (True, object())),
    ],
)
def test_impossible_values(planned: Planned, name: str, value: Any) -> None:
    config = {"sampler": "low_confidence_dynamic"}
    with pytest.raises(RequestError, match=name):
        planned([1, 2], config=config, **{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 1, "steps": 1},
        {"steps_per_block": 1, "block_length": 1},
        {"temperature": 0, "seed": 0},
        {"temperature": 1.5, "seed": (1 << 64) - 1},
        {"threshold": 1, "sampler": "low_confidence_dynamic"},
        {"threshold": 1e-9, "sampler": "low_confidence_dynamic"},
        {"reference": True, "on_step": print, "cancel": _native.CancelFlag()},
        dict.fromkeys(("max_tokens", "steps", "block_length", "sampler", "on_step")),
    ],
)
def test_possible_values(planned: Planned, options: dict[str, Any]) -> None:
    plan = planned([1, 2], **options)
    assert plan.options == GenerateConfig(**options)


@pytest.mark.parametrize("name", ["tokens", "maxtokens", "budget", "prompt"])
def test_unknown_options_are_told_the_known_ones(name: str) -> None:
    with pytest.raises(RequestError, match=f"unknown option '{name}'.*max_tokens.*cancel"):
        GenerateConfig.of({name: 1})


def test_steps_and_steps_per_block_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="steps and steps_per_block"):
        GenerateConfig.of({"steps": 4, "steps_per_block": 2})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.integers(1, 100), block_length=st.integers(1, 40), extra=st.integers(0, 100))
def test_steps_are_shared_out_over_the_blocks(
    planned: Planned, tokens: int, block_length: int, extra: int
) -> None:
    num_blocks = -(-tokens // block_length)
    steps = num_blocks + extra
    plan = planned([1], max_tokens=tokens, block_length=block_length, steps=steps)
    share, rest = steps // num_blocks, steps % num_blocks
    assert steps_of(plan) == [share + (block < rest) for block in range(num_blocks)]
    assert sum(steps_of(plan)) == steps
    assert plan.blocks[-1].stop - 1 == tokens


@pytest.mark.parametrize("steps", [1, 4])
def test_fewer_steps_than_blocks(planned: Planned, steps: int) -> None:
    with pytest.raises(RequestError, match=f"steps is {steps}, but there are 5 blocks"):
        planned([1], max_tokens=17, block_length=4, steps=steps)


def test_steps_per_block(planned: Planned) -> None:
    plan = planned([1], max_tokens=9, block_length=4, steps_per_block=3)
    assert steps_of(plan) == [3, 3, 3]


def test_the_file_s_steps_per_block(planned: Planned) -> None:
    plan = planned([1], config={"steps_per_block": 2}, max_tokens=8)
    assert steps_of(plan) == [2, 2]
    plan = planned([1], config={"steps_per_block": 2}, max_tokens=8, steps=6)
    assert steps_of(plan) == [3, 3]


def test_a_token_per_step_by_default(planned: Planned) -> None:
    plan = planned([1], max_tokens=10)
    assert spans_of(plan) == [(1, 5), (5, 9), (9, 11)]
    assert steps_of(plan) == [4, 4, 2]


def test_the_request_s_block_length_over_the_file_s(planned: Planned) -> None:
    assert spans_of(planned([1], max_tokens=6, block_length=6)) == [(1, 7)]


@pytest.mark.parametrize("max_tokens", [1, 3, 4, 5, 127])
def test_max_tokens_is_honoured_exactly(planned: Planned, max_tokens: int) -> None:
    plan = planned([1], max_tokens=max_tokens)
    assert len(plan.canvas) == 1 + max_tokens
    assert sum(stop - start for start, stop in spans_of(plan)) == max_tokens


def test_without_max_tokens_the_context_is_the_cap(planned: Planned) -> None:
    assert len(planned([1] * 100).canvas) == 128
    plan = planned([1] * 100, config={"context_length": 1000})
    assert len(plan.canvas) == 100 + DEFAULT_MAX_TOKENS


@pytest.mark.parametrize(
    ("prompt_length", "options"),
    [(128, {}), (200, {}), (100, {"max_tokens": 29}), (0, {"max_tokens": 129})],
)
def test_the_context_length(planned: Planned, prompt_length: int, options: dict[str, int]) -> None:
    with pytest.raises(ContextLengthError, match=f"{prompt_length} tokens .* context of 128"):
        planned([1] * prompt_length, **options)


def test_the_context_may_be_filled(planned: Planned) -> None:
    assert len(planned([1] * 100, max_tokens=28).canvas) == 128
    assert len(planned([], max_tokens=128).canvas) == 128


def test_a_threshold_needs_a_sampler_that_uses_it(planned: Planned) -> None:
    with pytest.raises(RequestError, match=r"threshold.*low_confidence_static"):
        planned([1], threshold=0.8)
    with pytest.raises(RequestError, match=r"threshold.*low_confidence_static"):
        planned(
            [1],
            config={"sampler": "low_confidence_dynamic"},
            threshold=0.8,
            sampler="low_confidence_static",
        )
    assert planned([1], config={"sampler": "low_confidence_dynamic"}, threshold=0.8)


@pytest.mark.parametrize("name", ["max_tokens", "block_length"])
def test_in_place_refuses_lengths(planned: Planned, name: str) -> None:
    with pytest.raises(RequestError, match=f"{name}.* is given.* canvas of 6 tokens"):
        planned([1, MASK, 1, 1, 1, MASK], config=IN_PLACE, **{name: 6})


@pytest.mark.parametrize("length", [0, 5, 7])
def test_in_place_wants_the_canvas_s_length(planned: Planned, length: int) -> None:
    with pytest.raises(RequestError, match=f"the prompt has {length} tokens.*canvas 6"):
        planned([MASK] * length, config=IN_PLACE)


def test_in_place_is_one_block(planned: Planned) -> None:
    plan = planned([MASK, 1, MASK, MASK, 1, 1], config=IN_PLACE)
    assert spans_of(plan) == [(0, 6)]
    assert steps_of(plan) == [3]
    assert steps_of(planned([MASK] * 6, config=IN_PLACE, steps=2)) == [2]


def test_in_place_without_a_hole(planned: Planned) -> None:
    assert spans_of(planned([1] * 6, config=IN_PLACE)) == [(0, 6)]


def test_the_caller_s_prompt_is_not_changed(planned: Planned) -> None:
    prompt = np.array([1, MASK, 3], np.int32)
    plan = planned(prompt, max_tokens=2)
    plan.canvas.commit(np.array([3], np.int32), np.array([7], np.int32))
    assert prompt.tolist() == [1, MASK, 3]


def test_numpy_numbers_are_numbers(planned: Planned) -> None:
    plan = planned([1], max_tokens=np.int64(6), seed=np.uint64(3), temperature=np.float32(0.5))
    assert len(plan.canvas) == 7

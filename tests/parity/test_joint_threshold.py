"""Token editing on a LLaDA2 denoiser, against its loop written once more, from its description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge
from convert import convert

GOLDEN = Path(__file__).parents[1] / "golden" / "llada2_moe"
MASK, LENGTH, BLOCK = 245, 40, 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("editing") / "model.gguf"
    told = {"diffusion.block_length": str(BLOCK), "diffusion.sampler": "joint_threshold"}
    convert(GOLDEN, out, "f32", mask_token_id=MASK, overrides=told)
    with edge.load(out) as loaded:
        yield loaded


def prompt() -> Any:
    return np.load(GOLDEN / "expected.npz")["prompt"]


def loop(model: Any, threshold: float, edit_threshold: float, post_edit_steps: int) -> list[Any]:
    """Every state of the canvas; nothing is cached."""
    given = prompt()
    x = np.full(LENGTH, MASK, np.int32)
    x[: len(given)] = given
    states = []
    for start in range(len(given) // BLOCK * BLOCK, LENGTH, BLOCK):
        own = np.arange(start, start + BLOCK) >= len(given)
        post_steps = 0
        while True:
            before = x[start : start + BLOCK].copy()
            masked = before == MASK
            post_steps += not masked.any()
            if post_steps > post_edit_steps:
                break
            logits = model.logits(x[: start + BLOCK])[start:].astype(np.float64)
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            tokens, sure = p.argmax(axis=1), p.max(axis=1)
            filled = masked & (sure > threshold)
            if masked.any() and not filled.any():
                filled[np.where(masked, sure, -1).argmax()] = True
            edited = ~masked & own & (sure > edit_threshold) & (tokens != before)
            x[start : start + BLOCK] = np.where(filled | edited, tokens, before)
            states.append(x.copy())
            if not masked.any() and not edited.any():
                break
    return states


@pytest.mark.parametrize("post_edit_steps", [0, 1, 16])
@pytest.mark.parametrize(("threshold", "edit_threshold"), [(0.35, 0.3), (0.2, 0.01), (0.95, 0.9)])
def test_states_are_the_published_loops(
    model: Any, threshold: float, edit_threshold: float, post_edit_steps: int
) -> None:
    states: list[Any] = []
    result = model.generate_ids(
        prompt(),
        max_tokens=LENGTH - len(prompt()),
        threshold=threshold,
        edit_threshold=edit_threshold,
        post_edit_steps=post_edit_steps,
        reference=True,
        eos="forbid",
        on_step=lambda draft: states.append(draft.ids),
    )
    np.testing.assert_array_equal(states, loop(model, threshold, edit_threshold, post_edit_steps))
    assert result.stats.steps == len(states)
    assert (result.stats.edited_tokens > 0) == (edit_threshold < 0.5 and len(states) > 0)


@pytest.mark.parametrize("preset", ["quality", "speed"])
def test_text_that_was_given_out_stays(model: Any, preset: str) -> None:
    pieces: list[int] = []
    options = {"max_tokens": 27, "preset": preset, "edit_threshold": 0.02, "eos": "forbid"}
    for event in model.stream_ids(prompt(), **options):
        if isinstance(event, edge.Commit):
            pieces += event.ids
        if isinstance(event, edge.Done):
            assert pieces == event.result.ids
            assert event.result.stats.edited_tokens > 0
            assert MASK not in pieces


def test_presets_stand_behind_what_is_given(model: Any) -> None:
    parameters = model.generate_ids(prompt(), max_tokens=3).stats.sampler_parameters
    assert parameters["edit_threshold"] == pytest.approx(0.9)
    for preset, wanted in (("quality", (0.7, 0.5)), ("speed", (0.5, 0.0))):
        run = model.generate_ids(prompt(), max_tokens=3, preset=preset)
        found = run.stats.sampler_parameters
        assert (found["threshold"], found["edit_threshold"]) == wanted
    run = model.generate_ids(prompt(), max_tokens=3, preset="speed", threshold=0.8)
    assert run.stats.sampler_parameters["threshold"] == 0.8


def test_a_budget_leaves_no_time_for_edits(model: Any) -> None:
    run = model.generate_ids(
        prompt(), max_tokens=20, edit_threshold=0.02, budget_ms=60_000, eos="forbid"
    )
    assert run.stats.edited_tokens == 0
    assert len(run.ids) == 20


def test_edits_are_remasked_like_other_tokens(model: Any) -> None:
    options = {"max_tokens": 20, "eos": "forbid", "threshold": 0.2, "edit_threshold": 0.05}
    run = model.generate_ids(prompt(), remask="conf", steps_per_block=8, **options)
    assert len(run.ids) == 20
    assert MASK not in run.ids


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"preset": "fast"}, "preset is 'fast'"),
        ({"preset": "speed", "sampler": "timestep"}, "preset has no effect.*joint_threshold"),
        ({"edit_threshold": 0.5, "sampler": "factor"}, "edit_threshold has no effect"),
        ({"edit_threshold": 1.5}, "edit_threshold is 1.5"),
        ({"post_edit_steps": -1}, "post_edit_steps is -1"),
        ({"post_edit_steps": 1.5}, "post_edit_steps is 1.5"),
    ],
)
def test_options_that_cannot_be(model: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(edge.RequestError, match=problem):
        model.generate_ids(prompt(), max_tokens=3, **options)

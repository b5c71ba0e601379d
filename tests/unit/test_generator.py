"""The loop, driven by a scripted denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge._native import CancelFlag
from edge.result import Commit, Draft

MASK, EOS = 256, 257
Scripted = Callable[..., Any]
often = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def falling(count: int) -> list[float]:
    """Confidences that make the static sampler commit from left to right."""
    return np.linspace(0.8, 0.2, count).tolist()


def test_the_answer_and_its_events(scripted: Scripted) -> None:
    run = scripted([7, 8], [1, 2, 3, 4, 5, 6], falling(6))
    assert run.result.ids == [1, 2, 3, 4, 5, 6]
    assert run.result.status == "complete"
    assert run.result.complete
    assert run.result.text is None
    assert run.result.verified is None
    assert [draft.block for draft in run.drafts] == [0, 0, 0, 0, 1, 1]
    assert [draft.step for draft in run.drafts] == [1, 2, 3, 4, 5, 6]
    assert all(draft.num_blocks == 2 for draft in run.drafts)
    assert [commit.ids for commit in run.commits] == [[1], [2], [3], [4], [5], [6]]


def test_a_draft_shows_what_is_committed_and_what_is_guessed(scripted: Scripted) -> None:
    run = scripted([7], [1, 2, 3, 4, 5], [0.2, 0.9, 0.3, 0.4, 0.5])
    first = run.drafts[0]
    assert first.output_start == 1
    assert first.ids.tolist() == [7, MASK, 2, MASK, MASK, MASK]
    assert first.draft_ids.tolist() == [7, 1, 2, 3, 4, MASK]
    assert first.committed.tolist() == [True, False, True, False, False, False]
    assert np.isnan(first.confidence).tolist() == [True, False, False, False, False, True]
    assert first.confidence[2] == np.float32(0.9)
    assert run.commits[0].ids == [1, 2, 3, 4] or run.commits[0].ids == [1, 2]


def test_drafts_belong_to_the_receiver(scripted: Scripted) -> None:
    def spoil(draft: Draft) -> None:
        draft.ids[:] = 0
        draft.committed[:] = True

    assert scripted([7], [1, 2, 3], falling(3), on_step=spoil).result.ids == [1, 2, 3]


def test_on_step_gets_every_draft(scripted: Scripted) -> None:
    seen: list[Draft] = []
    run = scripted([7], [1, 2, 3, 4, 5], on_step=seen.append)
    assert len(seen) == 5
    assert all(one is other for one, other in zip(seen, run.drafts, strict=True))


def test_what_on_step_raises_comes_out(scripted: Scripted) -> None:
    def fail(draft: Draft) -> None:
        raise LookupError(draft.step)

    with pytest.raises(LookupError, match="1"):
        scripted([7], [1, 2], on_step=fail)


def test_only_holes_of_the_block_are_asked_for(scripted: Scripted) -> None:
    run = scripted([7, 8], [1, 2, 3, 4, 5], falling(5))
    asked = [request.positions[request.head_rows].tolist() for request in run.requests]
    assert asked == [[2, 3, 4, 5], [3, 4, 5], [4, 5], [5], [6]]
    assert all(len(request.ids) == 7 for request in run.requests)
    assert [request.draws.number for request in run.requests] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("prompt", [[], [MASK], [EOS], [MASK, 1, EOS, MASK]])
def test_the_prompt_stays_whatever_it_holds(scripted: Scripted, prompt: list[int]) -> None:
    run = scripted(prompt, [1, 2, 3], falling(3))
    assert run.result.ids == [1, 2, 3]
    assert run.result.status == "complete"
    for draft in run.drafts:
        assert draft.ids[: len(prompt)].tolist() == prompt
    for request in run.requests:
        assert request.ids[: len(prompt)].tolist() == prompt
        assert request.head_rows.min(initial=99) >= len(prompt)


def test_neither_mask_nor_padding_may_be_chosen(scripted: Scripted) -> None:
    for request in scripted([1], [2, 3]).requests:
        assert request.draws.forbidden == (MASK,)
        assert request.draws.num_choices == 258


def test_a_mask_token_from_a_backend_is_refused(scripted: Scripted) -> None:
    with pytest.raises(ValueError, match="mask token"):
        scripted([1], [MASK, 2])


class TestEndToken:
    def test_stops_when_everything_before_is_committed(self, scripted: Scripted) -> None:
        run = scripted([7], [1, EOS, 3, 4, 5, 6], falling(6))
        assert run.result.status == "eos"
        assert run.result.complete
        assert run.result.ids == [1]
        assert run.result.stats.nfe == 2
        assert run.result.stats.tokens == 1

    def test_waits_for_what_is_before(self, scripted: Scripted) -> None:
        run = scripted([7], [1, 2, EOS, 4, 5, 6], [0.2, 0.3, 0.9, 0.1, 0.9, 0.9])
        assert run.drafts[0].committed.tolist()[1:5] == [False, False, True, False]
        assert run.result.ids == [1, 2]
        assert run.result.stats.nfe == 3

    def test_at_the_very_start_gives_an_empty_answer(self, scripted: Scripted) -> None:
        run = scripted([7], [EOS, 2], falling(2))
        assert (run.result.ids, run.result.status) == ([], "eos")
        assert run.commits == []
        assert run.result.stats.ttft_ms is None
        assert run.result.stats.tokens_per_forward == 0

    def test_the_first_of_several_counts(self, scripted: Scripted) -> None:
        run = scripted([7], [1, EOS, 3, EOS], steps=1)
        assert run.result.ids == [1]

    def test_any_of_the_file_s_end_tokens_counts(self, scripted: Scripted) -> None:
        run = scripted([7], [1, 9, EOS], falling(3), config={"eos_ids": (EOS, 9)})
        assert run.result.ids == [1]

    def test_a_file_without_one_never_stops(self, scripted: Scripted) -> None:
        run = scripted([7], [1, EOS, 3], config={"eos_ids": ()})
        assert (run.result.ids, run.result.status) == ([1, EOS, 3], "complete")

    def test_the_published_loop_does_not_stop(self, scripted: Scripted) -> None:
        run = scripted([7], [1, EOS, 3], falling(3), reference=True)
        assert (run.result.ids, run.result.status) == ([1, EOS, 3], "complete")
        assert run.result.stats.nfe == 3

    def test_in_place_a_given_one_is_part_of_the_canvas(self, scripted: Scripted) -> None:
        run = scripted(
            [1, EOS, MASK, MASK],
            [0, 0, 3, 4],
            config={"canvas": "in_place", "canvas_length": 4},
        )
        assert (run.result.ids, run.result.status) == ([1, EOS, 3, 4], "complete")


class TestPublishedLoop:
    def test_runs_all_steps_even_without_holes(self, scripted: Scripted) -> None:
        run = scripted([7], [1, 2], steps=6, reference=True)
        assert run.result.stats.nfe == run.result.stats.steps == 6
        assert run.result.ids == [1, 2]

    def test_without_reference_needless_steps_are_spared(self, scripted: Scripted) -> None:
        run = scripted([7], [1, 2], steps=6)
        assert run.result.stats.nfe == 2

    def test_does_not_forbid_the_mask_token(self, scripted: Scripted) -> None:
        run = scripted([7], [1, MASK, 3], [0.8, 0.2, 0.5], steps=3, reference=True)
        assert run.result.ids == [1, MASK, 3]
        assert all(request.draws.forbidden == () for request in run.requests)
        assert all(request.draws.num_choices == 264 for request in run.requests)

    def test_a_predicted_mask_token_takes_a_commit_and_stays_a_hole(
        self, scripted: Scripted
    ) -> None:
        run = scripted([7], [1, MASK, 3], [0.2, 0.8, 0.5], steps=3, reference=True)
        assert run.result.ids == [MASK, MASK, MASK]
        assert run.requests[-1].head_rows.tolist() == [1, 2, 3]

    def test_has_no_floor(self, scripted: Scripted) -> None:
        sure = [0.5, 0.95, 0.5, 0.5]
        options = {"sampler": "low_confidence_dynamic", "steps": 2}
        free = scripted([7], [1, 2, 3, 4], sure, reference=True, **options)
        held = scripted([7], [1, 2, 3, 4], sure, **options)
        assert free.result.stats.nfe == 4
        assert held.result.stats.nfe == 2
        assert (free.result.stats.forced_tokens, held.result.stats.forced_tokens) == (0, 2)


@often
@given(
    answer=st.lists(st.integers(0, 255), min_size=1, max_size=40),
    block_length=st.integers(1, 12),
    seed=st.integers(0, 9),
    sampler=st.sampled_from(["low_confidence_static", "low_confidence_dynamic"]),
    extra_steps=st.integers(0, 30),
)
def test_every_request_ends_within_its_steps_and_whole(
    scripted: Scripted,
    answer: list[int],
    block_length: int,
    seed: int,
    sampler: str,
    extra_steps: int,
) -> None:
    confidence = np.random.default_rng(seed).uniform(0, 1, len(answer))
    steps = -(-len(answer) // block_length) + extra_steps
    run = scripted([7], answer, confidence, block_length=block_length, sampler=sampler, steps=steps)
    assert run.result.ids == answer
    assert run.result.stats.nfe <= min(steps, len(answer))
    committed = [int(draft.committed.sum()) for draft in run.drafts]
    assert all(now > before for before, now in zip([1, *committed], committed, strict=False))
    assert [i for commit in run.commits for i in commit.ids] == answer
    blocks = {
        position: b
        for b, span in enumerate(run.plan.blocks)
        for position in range(span.start, span.stop)
    }
    for draft in run.drafts:
        done = np.flatnonzero(draft.committed)[1:]
        assert all(blocks[int(position)] <= draft.block for position in done)


class TestCancel:
    @pytest.mark.parametrize("after", [0, 1, 3, 5])
    def test_gives_what_is_committed_from_the_start(self, scripted: Scripted, after: int) -> None:
        flag = CancelFlag()
        run = scripted(
            [7],
            [1, 2, 3, 4, 5, 6],
            falling(6),
            cancel=flag,
            on_forward=lambda forwards: flag.set() if forwards == after else None,
        )
        assert run.result.status == "cancelled"
        assert not run.result.complete
        assert run.result.ids == [1, 2, 3, 4, 5, 6][:after]
        assert run.result.stats.nfe == after + 1
        assert run.result.stats.steps == after == len(run.drafts)

    def test_leaves_out_what_stands_after_a_hole(self, scripted: Scripted) -> None:
        flag = CancelFlag()
        run = scripted(
            [7],
            [1, 2, 3, 4],
            [0.9, 0.1, 0.8, 0.2],
            cancel=flag,
            on_forward=lambda forwards: flag.set() if forwards == 2 else None,
        )
        assert run.result.ids == [1]

    def test_in_place_gives_the_whole_canvas(self, scripted: Scripted) -> None:
        flag = CancelFlag()
        run = scripted(
            [MASK, 5, MASK, MASK],
            [1, 5, 3, 4],
            [0.1, 0.0, 0.8, 0.2],
            config={"canvas": "in_place", "canvas_length": 4, "eos_ids": ()},
            cancel=flag,
            on_forward=lambda forwards: flag.set() if forwards == 1 else None,
        )
        assert run.result.ids == [MASK, 5, 3, MASK]
        assert run.result.stats.tokens == 1

    def test_a_flag_that_is_never_set_changes_nothing(self, scripted: Scripted) -> None:
        assert scripted([7], [1, 2], cancel=CancelFlag()).result.status == "complete"


class TestInPlace:
    config: ClassVar[dict[str, Any]] = {"canvas": "in_place", "canvas_length": 5, "eos_ids": ()}

    def test_fills_the_holes_only(self, scripted: Scripted) -> None:
        run = scripted([9, MASK, 8, MASK, MASK], [1, 2, 3, 4, 5], config=self.config)
        assert run.result.ids == [9, 2, 8, 4, 5]
        assert run.result.stats.tokens == 3
        assert run.drafts[0].output_start == 0

    def test_without_a_hole_nothing_is_computed(self, scripted: Scripted) -> None:
        run = scripted([9, 9, 9, 9, 9], [1, 2, 3, 4, 5], config=self.config)
        assert run.result.ids == [9, 9, 9, 9, 9]
        assert run.requests == []
        assert run.result.stats.mean_confidence is None
        assert [commit.ids for commit in run.commits] == [[9, 9, 9, 9, 9]]


class TestStats:
    def test_counts_and_means(self, scripted: Scripted) -> None:
        confidence = [0.95, 0.2, 0.99, 0.4, 0.6, 0.5]
        run = scripted(
            [7], [1, 2, 3, 4, 5, 6], confidence, sampler="low_confidence_dynamic", steps=4, seed=5
        )
        stats = run.result.stats
        assert stats.steps == stats.nfe == len(run.requests) == len(run.drafts) == 4
        assert stats.tokens == 6
        assert stats.tokens_per_forward == 6 / 4
        assert stats.forced_tokens == 1  # 2 sure, then 1 and a forced one; then 1 and 1
        assert stats.mean_confidence == pytest.approx(np.mean(confidence))
        assert (stats.sampler, stats.seed) == ("low_confidence_dynamic", 5)
        assert (stats.backend, stats.isa, stats.threads) == ("scripted", "none", 3)
        assert (stats.cache, stats.prefill_ms) == ("exact", 0.0)
        assert (stats.budget_ms, stats.overshoot_ms) == (None, None)
        assert stats.peak_rss_bytes > 1 << 20

    def test_times(self, scripted: Scripted) -> None:
        stats = scripted([7], [1, 2, 3, 4, 5, 6]).result.stats
        assert 0 < stats.denoise_ms <= stats.elapsed_ms
        assert stats.ttft_ms is not None
        assert 0 < stats.ttft_ms <= stats.elapsed_ms
        assert stats.tokens_per_s == pytest.approx(6 / (stats.elapsed_ms / 1000))

    def test_mean_confidence_counts_what_the_end_token_cut_off(self, scripted: Scripted) -> None:
        run = scripted([7], [1, EOS, 3, 4], [0.5, 0.5, 0.7, 0.7], steps=1)
        assert run.result.stats.tokens == 1
        assert run.result.stats.mean_confidence == pytest.approx(0.6)


def test_the_same_request_gives_the_same_result(scripted: Scripted) -> None:
    one, other = (scripted([7], [1, 2, 3, 4, 5], seed=3) for _ in range(2))
    assert one.result.ids == other.result.ids
    commits = [[commit.ids for commit in run.commits] for run in (one, other)]
    assert commits[0] == commits[1]


def test_temperature_and_seed_reach_the_denoiser(scripted: Scripted) -> None:
    run = scripted([7], [1, 2], temperature=0.7, seed=11)
    assert {(request.draws.temperature, request.draws.seed) for request in run.requests} == {
        (0.7, 11)
    }
    assert isinstance(run.commits[0], Commit)

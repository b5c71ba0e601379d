"""Where time is short: fewer blocks, several at once, guesses, stopped forwards."""

from __future__ import annotations

import pytest
from simulated import Timed, ask

from edge._native import CancelFlag


class TestTight:
    def test_shortened_by_whole_blocks(self, timed: Timed) -> None:
        run = ask(timed, "block", budget_ms=400, fused=False)
        assert run.result.status == "shortened"
        assert not run.result.complete
        assert len(run.result.ids) in (32, 64)

    @pytest.mark.parametrize("kind", ["block", "absolute", "shifted", "causal_context"])
    def test_coarse_keeps_the_length(self, timed: Timed, kind: str) -> None:
        fused = None if kind in ("shifted", "causal_context") else False
        short = ask(timed, kind, budget_ms=450, fused=fused)
        coarse = ask(timed, kind, budget_ms=450, on_tight="coarse", fused=fused)
        assert (short.result.status, coarse.result.status) == ("shortened", "complete")
        assert len(coarse.result.ids) == 100
        assert not coarse.missed

    def test_blocks_denoised_at_once_see_what_blocks_see(self, timed: Timed) -> None:
        run = ask(timed, "block", budget_ms=450, on_tight="coarse", fused=False)
        masks = {(len(r.ids), r.mask.kind) for r in run.backend.requests if len(r.head_rows)}
        assert (100, "block") in masks

    def test_storing_with_the_next_block_s_first_step_is_cheaper(self, timed: Timed) -> None:
        fused, apart = (ask(timed, "block", budget_ms=1500, fused=f).result for f in (None, False))
        assert fused.stats.store_ms == 0
        assert apart.stats.store_ms > 0
        assert fused.stats.steps > apart.stats.steps

    def test_approximate_reuse_gives_more_steps(self, timed: Timed) -> None:
        exact, dual = (
            ask(timed, "full", budget_ms=4000, cache=c).result for c in ("exact", "dual")
        )
        assert dual.stats.steps > exact.stats.steps
        assert dual.stats.cache == "dual"

    def test_full_attention_fills_what_has_no_step_of_its_own(self, timed: Timed) -> None:
        run = ask(timed, "full", budget_ms=700)
        assert run.result.status == "filled"
        assert run.result.complete
        assert run.result.stats.steps < 4
        assert run.result.stats.forced_tokens > 50

    def test_full_attention_cuts_the_canvas_beforehand(self, timed: Timed) -> None:
        least = ask(timed, "full", budget_ms=1).result.stats.min_budget_ms
        run = ask(timed, "full", budget_ms=least * 1.05)
        assert run.result.status == "shortened"
        assert len(run.result.ids) == 32
        assert all(len(request.ids) == 52 for request in run.backend.requests)

    def test_steps_are_an_upper_bound(self, timed: Timed) -> None:
        run = ask(timed, "block", budget_ms=1e6, steps=8)
        assert run.result.stats.steps_per_block == [2, 2, 2, 2]
        assert ask(timed, "block", budget_ms=700, steps=40).result.stats.steps < 40

    def test_the_file_s_steps_are_none(self, timed: Timed) -> None:
        config = {"steps_per_block": 2}
        assert ask(timed, "block", config=config).result.stats.steps == 8
        assert ask(timed, "block", config=config, budget_ms=1e6).result.stats.steps == 100


class TestStopped:
    def test_the_least_answer_teaches_no_lateness(self, timed: Timed) -> None:
        run = ask(timed, "block", budget_ms=1)
        assert run.timing.pace.lateness_ns is None

    def test_a_stopped_step_is_replaced_by_the_last_guesses(self, timed: Timed) -> None:
        noise = iter([1.0] * 3 + [2.5] * 9)
        run = ask(timed, "in_place", budget_ms=360, noise=noise)
        assert run.backend.stopped == [False] * 3 + [True]
        assert run.result.status == "filled"
        assert run.result.complete
        assert not run.missed

    def test_a_stopped_store_leaves_whole_blocks(self, timed: Timed) -> None:
        noise = iter([1.0, 1.0, 3.5])
        run = ask(timed, "block", budget_ms=330, noise=noise, fused=False)
        assert run.backend.stopped == [False, False, True]
        assert run.result.status == "shortened"
        assert len(run.result.ids) == 32
        assert not run.missed

    def test_the_caller_s_wish_is_told_from_the_deadline(self, timed: Timed) -> None:
        flag = CancelFlag()
        flag.set()
        # The timed backend knows no flag, so it stops for the deadline; the flag explains it.
        run = ask(timed, "block", budget_ms=1500, noise=iter([1.0] * 5 + [50.0] * 9), cancel=flag)
        assert run.result.status == "cancelled"
        assert not run.result.complete

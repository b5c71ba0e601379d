"""What forwards are predicted to cost decides which are run: refreshes, and a prompt in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
import pytest
import simulated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated import COSTS, MS, Timed

from edge.budget import Work
from edge.canvas import RowStats
from edge.costs import StepCosts
from edge.errors import BudgetError
from edge.plan import CHUNK, plan_request
from edge.prices import Prices
from edge.request import GenerateConfig

Config = Callable[..., Any]
FLAT = StepCosts(((1, 90 * MS), (4096, 90 * MS)), ((1, MS), (4096, MS)), 0.0, "calibration")
often = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def ask(timed: Timed, **options: Any) -> Any:
    return simulated.ask(timed, "full", **{"cache": "dual", **options})


def prices(config: Config, prompt_length: int, costs: StepCosts = COSTS, **options: Any) -> Prices:
    changes = {k: options.pop(k) for k in ("attention", "block_align") if k in options}
    model = config(**changes, eos_ids=())
    plan = plan_request(np.full(prompt_length, 7, np.int32), GenerateConfig.of(options), model)
    return Prices(costs, model.diffusion, plan)


class TestWhatIsStoredAlready:
    @pytest.mark.parametrize("attention", ["block", "causal_context"])
    @pytest.mark.parametrize("fused", [None, False])
    def test_is_not_paid_for(
        self, timed_config: Config, attention: str, fused: bool | None
    ) -> None:
        options = {"attention": attention, "max_tokens": 64, "fused": fused}
        made = prices(timed_config, 4 * CHUNK, **options)
        for reused in (CHUNK, 3 * CHUNK, 4 * CHUNK):
            kept = prices(timed_config, 4 * CHUNK, **options)
            kept._plan = replace(kept._plan, num_reused=reused)
            whole, rest = made.prefill(), kept.prefill()
            assert rest == made.prefill(reused) or (reused == 4 * CHUNK and kept._plan.fused)
            assert rest.total_ns < whole.total_ns
        assert kept.prefill().total_ns == 0

    @often
    @given(
        kind=st.sampled_from(["block", "absolute", "shifted", "causal_context", "sub_blocks"]),
        blocks=st.integers(0, 9),
        budget_ms=st.floats(300, 8_000),
    )
    def test_a_budget_is_kept_and_it_is_not_stored_again(
        self, timed: Timed, kind: str, blocks: int, budget_ms: float
    ) -> None:
        prompt, reused = [7] * 320, 32 * blocks
        config = {"eos_ids": (), **simulated.KINDS[kind]}
        run = timed(
            prompt=prompt,
            max_tokens=64,
            config=config,
            costs=COSTS,
            budget_ms=budget_ms,
            num_reused=reused,
        )
        assert not run.missed or run.result.status == "deadline_infeasible"
        assert min(request.positions[0] for request in run.backend.requests) == reused
        assert run.result.stats.reused_tokens == reused


class TestRefreshes:
    def test_the_next_step_is_a_refresh_or_not(self, timed_config: Config) -> None:
        made = prices(timed_config, 20, attention="full", cache="dual", max_tokens=100)
        assert made.dual is not None
        plan = made._plan
        assert made.next_step(0, 5) == made.forward(120, 0, 5)
        position = np.array([20], np.int32)
        zero = np.zeros(1, np.float32)
        made.dual.refreshed(plan.blocks[0], 20, RowStats(position, position, zero, zero, zero))
        assert made.next_step(0, 5) == made.forward(64, 56, 5)  # 4 to before 68

    @given(time_ns=st.floats(-1e9, 1e11))
    def test_the_usual_step_is_between_both(self, timed_config: Config, time_ns: float) -> None:
        made = prices(timed_config, 20, attention="full", cache="dual", max_tokens=100)
        full, near = made.forward(120, 0, 5), made.forward(64, 56, 5)
        usual = made.usual_step(0, 5, time_ns)
        assert (full + 7 * near) / 8 - 1 <= usual <= full
        if time_ns < 2 * full:
            assert usual == full  # there is only time for refreshes
        if time_ns > 2 * full + 14 * near:
            assert usual == pytest.approx((full + 7 * near) / 8)

    @often
    @given(budget_ms=st.floats(400, 12_000))
    def test_on_a_calm_device_it_only_gains(self, timed: Timed, budget_ms: float) -> None:
        dual, exact = (ask(timed, budget_ms=budget_ms, cache=c) for c in ("dual", "exact"))
        assert not dual.missed
        assert not any(dual.backend.stopped)
        assert dual.result.stats.steps >= exact.result.stats.steps
        assert dual.result.complete == exact.result.complete

    def test_their_time_is_reported(self, timed: Timed) -> None:
        run = ask(timed, budget_ms=6000)
        whole = [
            time
            for time, request in zip(run.backend.times_ns, run.backend.requests, strict=True)
            if len(request.ids) == 120
        ]
        stats = run.result.stats
        assert stats.cache == "dual"
        assert 0 < len(whole) == stats.refreshes < stats.nfe
        assert stats.refresh_ms == pytest.approx(sum(whole) / MS)
        assert stats.refresh_ms < stats.denoise_ms

    def test_without_a_budget_too(self, timed: Timed) -> None:
        stats = ask(timed).result.stats
        assert 0 < stats.refresh_ms < stats.denoise_ms
        assert ask(timed, cache="exact").result.stats.refresh_ms == 0

    @pytest.mark.parametrize("budget_ms", [800, 3000, 1e6])
    def test_what_does_not_pay_is_off(self, timed: Timed, budget_ms: float) -> None:
        dual, exact = (
            ask(timed, budget_ms=budget_ms, costs=FLAT, cache=c) for c in ("dual", "exact")
        )
        stats = dual.result.stats
        assert (stats.cache, stats.refreshes) == ("exact", stats.nfe)
        assert dual.result.ids == exact.result.ids
        assert stats.nfe == exact.result.stats.nfe

    def test_without_a_budget_nobody_asks_what_pays(self, timed: Timed) -> None:
        assert ask(timed, costs=FLAT).result.stats.cache == "dual"


class TestChunks:
    @often
    @given(
        length=st.integers(0, 1500),
        attention=st.sampled_from(["block", "causal_context"]),
        align=st.sampled_from(["absolute", "prompt_end"]),
        fused=st.booleans(),
    )
    def test_reach_the_first_block(
        self, timed_config: Config, length: int, attention: str, align: str, fused: bool
    ) -> None:
        fused = fused and attention == "block"
        made = prices(
            timed_config, length, attention=attention, block_align=align, fused=fused, max_tokens=40
        )
        origin, stops = made._plan.blocks[0].origin, made._plan.prefill_stops(made._diffusion)
        ends = [*stops, *([origin] if fused and origin else [])]
        assert ends == sorted(set(ends))
        assert (ends[-1] if ends else 0) == origin
        sizes = np.diff([0, *ends])
        assert (sizes <= CHUNK).all()
        assert len(ends) == -(-origin // CHUNK)
        if attention == "block":
            assert all((origin - end) % 32 == 0 for end in ends)
        assert made.prefill().forwards == len(ends)
        rest = [made.prefill(stop).forwards for stop in stops]
        assert rest == [len(ends) - done for done in range(1, len(stops) + 1)]

    def test_full_attention_has_none(self, timed_config: Config) -> None:
        made = prices(timed_config, 900, attention="full")
        assert (made._plan.prefill_stops(made._diffusion), made.prefill()) == ([], Work())

    @pytest.mark.parametrize(("fused", "rows"), [(True, [188, 256, 288]), (False, [188, 256, 256])])
    def test_are_forwards_of_the_prefill(self, timed: Timed, fused: bool, rows: list[int]) -> None:
        run = timed(prompt=[7] * 700, max_tokens=64, budget_ms=1e5, costs=COSTS, fused=fused)
        assert [len(request.ids) for request in run.backend.requests[:3]] == rows
        assert run.result.status == "complete"
        times = sum(run.backend.times_ns[: 2 if fused else 3]) / MS
        assert run.result.stats.prefill_ms == pytest.approx(times)

    def test_a_refusal_need_not_wait_for_the_last(self, timed: Timed) -> None:
        options: dict[str, Any] = {"prompt": [7] * 1000, "max_tokens": 32, "costs": COSTS}
        least = timed(budget_ms=1, **options).result.stats.min_budget_ms
        assert timed(budget_ms=least * 1.1, on_infeasible="error", **options).result.complete
        noise, begun = repeat(3.0), []

        def counting() -> Any:
            for factor in noise:
                begun.append(factor)
                yield factor

        with pytest.raises(BudgetError):
            timed(budget_ms=least * 1.1, on_infeasible="error", noise=counting(), **options)
        assert len(begun) == 1

    def test_the_least_answer_is_given_all_the_same(self, timed: Timed) -> None:
        options: dict[str, Any] = {"prompt": [7] * 1000, "max_tokens": 64, "costs": COSTS}
        run = timed(budget_ms=900, noise=repeat(2.0), **options)
        assert run.result.status == "deadline_infeasible"
        assert len(run.result.ids) == 32

    def test_they_teach_the_pace_of_the_rest(self, timed: Timed) -> None:
        options: dict[str, Any] = {"prompt": [7] * 1000, "max_tokens": 128, "costs": COSTS}
        slow = timed(budget_ms=4000, noise=repeat(1.5), **options)
        assert not slow.missed
        assert not any(slow.backend.stopped)
        assert slow.result.stats.cost_u == pytest.approx(1.5, rel=0.05)

"""Joins a request, the device's costs and the controller: which forward may begin, and until when.

Without a budget none of this is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from edge.budget import Controller, Stretch, Work, water_level
from edge.canvas import Block, Canvas, RowStats
from edge.costs import Sample
from edge.dual_cache import DualCache
from edge.errors import BudgetError
from edge.plan import Part, Plan
from edge.prices import Prices
from edge.request import GenerateConfig
from edge.timing import Timing


class Pacer:
    """One request against its deadline."""

    def __init__(
        self, timing: Timing, plan: Plan, started_ns: int, clock: Callable[[], int]
    ) -> None:
        self._timing = timing
        self._diffusion = timing.config.diffusion
        self._costs = timing.costs
        self.cost_source = self._costs.source
        self.pace = timing.pace
        self.pace.rest_until(started_ns)
        self._clock = clock
        options = plan.options
        self.budget_ns = budget_of(options, started_ns)
        self._strict = options.on_infeasible == "error"
        # Given steps are an upper bound.
        self.capped = options.steps is not None or options.steps_per_block is not None
        self._guided = options.guidance > 0
        self._samples: list[Sample] = []
        self._ahead: dict[tuple[int, int], list[Stretch]] = {}  # from a part of a block on
        self._last_end_ns: int | None = None
        self.answered = False  # there has been a denoising step
        self.infeasible = False
        self.cut = False  # the answer was promised shorter than asked for
        self.predicted_ns: float | None = None
        self.min_budget_ns = 0.0  # these two are known at the end
        self.rate = (1.0, 0.0)
        self.plan = plan
        self._prices = Prices(self._costs, self._diffusion, plan)
        num_pauses = timing.config.denoiser.num_layers if timing.stoppable else 1
        self.pace.grain_ns = self._prices.step(0, self._prices.holes(0)) / num_pauses
        self._controller = Controller(clock, started_ns, self.budget_ns, self.pace)
        self._entry_ns = clock() - started_ns  # before the first forward could begin
        self._least_work = self._prices.least()
        self._promise()

    # What the request will be.

    def _promise(self) -> None:
        """Fit the plan to the budget; raises BudgetError when that is wanted and nothing fits."""
        if not self.pace.trusted:
            return
        self.infeasible = not self._controller.fits(self._least_work)
        if self.infeasible and self._strict:
            raise self.refusal()
        if not self._diffusion.caches and not self.plan.canvas.is_form:
            self._cut_canvas()
        elif self._coarse:
            prefill = self._prices.prefill()
            if not self._controller.fits(prefill + self._prices.mandatory(0)):
                self._merge(0, prefill)
        self.predicted_ns = self._prediction()

    def _smallest_budget(self) -> float:
        """The smallest budget that the least answer would fit into, as far as known."""
        return self.pace.least_budget(self._entry_ns + self.pace.bound(self._least_work))

    def refusal(self) -> BudgetError:
        """The error that names the smallest feasible budget."""
        wanted, least = self.budget_ns / 1e6, math.ceil(self._smallest_budget() / 1e6)
        return BudgetError(
            f"a budget of {wanted:.4g} ms is too short for this model and prompt on this device",
            budget_ms=wanted,
            min_budget_ms=float(least),
            hint=f"give at least {least} ms, or ask for the best effort",
        )

    def _cut_canvas(self) -> None:
        """Under full attention every step pays for the whole canvas, so it is cut beforehand."""
        blocks = self.plan.blocks
        fitting = range(len(blocks), 0, -1)
        count = next((n for n in fitting if self._controller.fits(self._prices.whole_canvas(n))), 1)
        if count < len(blocks):
            self.plan = _first_blocks(self.plan, count)
            self._prices = Prices(self._costs, self._diffusion, self.plan)
            self.cut = True

    @property
    def _coarse(self) -> bool:
        return self.plan.options.on_tight == "coarse" and self._diffusion.caches

    def _merge(self, index: int, before: Work) -> bool:
        """Make one block of as many blocks from ``index`` on as fit into a step after ``before``.

        Blocks that do not fit in are given up, but only if others do.
        """
        blocks, parts = self.plan.blocks, self.plan.parts
        for stop in range(len(blocks), index + 1, -1):
            first, last = blocks[index], blocks[stop - 1]
            holes = len(self.plan.canvas.holes(first.start, last.stop))
            step = self._prices.forward(last.stop - first.origin, first.origin, holes)
            if self._controller.fits(before + Work.of([step])):
                steps = sum(part.steps for some in parts[index:stop] for part in some)
                self.cut = self.cut or stop < len(blocks)
                blocks[index:] = [Block(first.start, last.stop, first.origin, last.whole)]
                parts[index:] = [[Part(first.start, last.stop, steps)]]
                self._ahead.clear()
                return True
        return False

    def _prediction(self) -> float:
        """Expected elapsed time of the plan."""
        stretches = self._stretches(0, 0, self._prices.holes(0))
        stores = Work.of(stretch.store_ns for stretch in stretches[:-1])
        certain = self._prices.prefill() + stores
        mean = sum(stretch.step_ns for stretch in stretches) / len(stretches)
        left = self._controller.left_ns - self.pace.bound(certain)
        needs = [need for stretch in stretches for need in stretch.needs]
        level = max(1, water_level(self.pace.affordable(mean, left), needs))
        steps = sum(min(level, need) for need in needs)
        return self._entry_ns + self.pace.expected(certain + Work(steps, steps * mean))

    def _need(self, part: Part) -> int:
        holes = len(self.plan.canvas.holes(part.start, part.stop))
        return min(part.steps, holes) if self.capped else holes

    def _stretches(self, index: int, part: int, head_rows: int) -> list[Stretch]:
        """The present stretch from a part of a block on, and all later ones."""
        if (index, part) not in self._ahead:
            self._ahead = {(index, part): self._look_ahead(index, part)}
        present, *later = self._ahead[index, part]
        time_ns = self._controller.left_ns / (self.pace.u * len(present.needs))
        step_ns = self._prices.usual_step(index, head_rows, time_ns)
        return [replace(present, step_ns=step_ns), *later]

    def _look_ahead(self, index: int, part: int) -> list[Stretch]:
        parts = self.plan.parts
        if not self._diffusion.caches:
            rest = [*parts[index][part:], *(p for some in parts[index + 1 :] for p in some)]
            return [Stretch(0.0, 0.0, [*map(self._need, rest)])]
        return [
            Stretch(
                self._prices.step(b, self._prices.holes(b)),
                self._prices.store(b),
                [self._need(p) for p in parts[b][part if b == index else 0 :]],
            )
            for b in range(index, len(self.plan.blocks))
        ]

    @property
    def dual(self) -> DualCache | None:
        """The decisions about approximate reuse, which this request's prices come from."""
        return self._prices.dual

    # While it runs.

    def chunk_done(self, stop: int) -> None:
        """The prompt is stored so far; raises BudgetError once the rest does not fit, if asked."""
        if self._strict and not self._controller.fits(self._prices.least(stop)):
            raise self.refusal()

    def weighs_reuse(self, index: int, part: int, holes: int) -> None:
        """Use an approximate cache only where it makes the steps to come cheaper."""
        if self.dual is not None:
            usual_ns = self._stretches(index, part, holes)[0].step_ns
            self.dual.is_on = usual_ns < self._prices.step(index, holes)

    @property
    def stop_at_ns(self) -> int:
        """When the next forward has to be stopped; 0: never.

        The least answer is always finished, and so is the forward that puts a guess right.
        """
        if not self.answered and not (self._strict and self.pace.trusted):
            return 0
        return max(1, int(self._controller.limit_ns))

    def is_over(self, index: int, holes: int, *, begins: bool) -> bool:
        """Whether there is no time for a part's step, which may be the one that begins a block."""
        fusing_ns = self._prices.fusing(index) if begins and self.plan.fused else 0.0
        step = Work.of([self._prices.next_step(index, holes) + fusing_ns])
        return self.answered and not self._controller.fits(step)

    def looks_ahead(self, index: int, part: int, holes: int) -> bool:
        """Whether the next step should also look at the later parts that it reaches.

        It costs their head rows and makes sure that they can be filled.
        """
        stretch = self._stretches(index, part, holes)[0]
        later = len(stretch.needs) - 1
        if later == 0 or not self.pace.trusted:
            return later > 0
        time_ns = self._controller.left_ns
        return self.pace.affordable(stretch.step_ns, time_ns) <= 2 * later

    def may_step(self, index: int, part: int, holes: int) -> bool:
        """Whether a step that is not the part's first still fits."""
        present, *later = self._stretches(index, part, holes)
        next_ns = self._prices.next_step(index, holes)
        return self._controller.may_step([replace(present, step_ns=next_ns), *later])

    def planned_steps(self, index: int, part: int, used: int, holes: int) -> int:
        """In how many steps the part's holes are to be filled, the one just run included."""
        stretches = self._stretches(index, part, holes)
        cap = self.plan.parts[index][part].steps - used - 1 if self.capped else holes
        need = max(0, min(cap, holes - 1))
        return 1 + self._controller.steps_left(stretches, used + 1, need)

    def spare_steps(self, index: int, head_rows: int, *, ends: bool) -> int:
        """Steps of a finished block, or answer, that nothing else needs; ``ends``: it is the last.

        Where later blocks are wanted that may yet get their time, there are none.
        """
        step_ns = self._prices.step(index, head_rows)
        stretches = self._stretches(index, len(self.plan.parts[index]) - 1, 0)
        later = [] if ends or not self._diffusion.caches else stretches[1:]
        kept = self._controller.kept([stretches[0], *later], begun=True)
        if kept < len(later) and (kept > 0 or self._coarse):
            return 0
        present = replace(stretches[0], step_ns=step_ns)
        return self._controller.spare_steps([present, *later[:kept]])

    def goes_on(self, index: int) -> bool:
        """Whether there is time for another block after this one, merging blocks if asked to."""
        stretches = self._stretches(index, 0, 0)
        kept = self._controller.kept(stretches, begun=True)
        if kept < len(stretches) - 1 and self._coarse:
            return self._merge(index + 1, Work.of([self._prices.store(index)])) or kept > 0
        return kept > 0

    def begins(self) -> None:
        """A forward is about to run."""
        if self._last_end_ns is not None:
            self.pace.between_ns.add(self._clock() - self._last_end_ns)

    def ended(self, shape: tuple[int, int, int], spent_ns: int, rows: RowStats | None) -> None:
        """A forward of (active, context, head rows) took so long; None: it was stopped."""
        self._last_end_ns = self._clock()
        predicted = self._prices.forward(*shape)
        if self.answered and self._last_end_ns > self._controller.limit_ns:
            self.pace.was_late(self._last_end_ns - self._controller.limit_ns)
        if rows is not None:
            self.pace.observe(spent_ns, predicted)
            if not self._guided:
                self._samples.append(Sample(*shape, spent_ns, rows.head_ns))
            return
        if spent_ns > self.pace.u * predicted:
            self.pace.observe(spent_ns, predicted)

    def first_step_done(self) -> None:
        """The least answer is there; raises BudgetError if it is late and that was asked for."""
        if not self.answered and self._is_late():
            if self._strict:
                raise self.refusal()
            self.infeasible = True
        self.answered = True

    def _is_late(self) -> bool:
        return self._clock() > self._controller.deadline_ns

    def finish(self) -> None:
        """No forward will follow: learn from those there were."""
        self.rate = self.pace.u, self.pace.v
        self.min_budget_ns = self._smallest_budget()
        self._timing.learn(self._samples)

    def end_at(self, now_ns: int) -> None:
        """The request is over."""
        if self._last_end_ns is not None:
            self.pace.tail_ns.add(now_ns - self._last_end_ns)
        self.pace.seen_ns = now_ns

    def status(self, status: str, *, filled: bool) -> str:
        """How the request ended, of ``complete``, ``eos``, ``shortened`` and ``cancelled``."""
        if status == "cancelled":
            return status
        if self.infeasible and self._is_late():  # it may have gone faster than expected
            return "deadline_infeasible"
        if status == "shortened" or (self.cut and status == "complete"):
            return "shortened"
        return "filled" if filled else status


def budget_of(options: GenerateConfig, started_ns: int) -> float:
    """The latency budget in ns, from the instant that the request began."""
    if options.budget_ms is not None:
        return options.budget_ms * 1e6
    assert options.deadline is not None
    return options.deadline * 1e9 - started_ns


def _first_blocks(plan: Plan, count: int) -> Plan:
    """The plan of the same request with fewer blocks."""
    stop = plan.blocks[count - 1].stop
    whole = plan.canvas
    canvas = Canvas(
        whole.ids[:stop].copy(),
        whole.committed[:stop].copy(),
        whole.output_start,
        whole.mask_token_id,
    )
    return replace(plan, canvas=canvas, blocks=plan.blocks[:count], parts=plan.parts[:count])

"""Joins a request, the device's costs and the controller: which forward may begin, and until when.

Without a budget none of this is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edge.budget import Stretch, Work, water_level
from edge.canvas import Block, Canvas
from edge.costs import Sample
from edge.dual_cache import DualCache
from edge.paced import Paced
from edge.plan import Part, Plan
from edge.prices import Prices
from edge.timing import Timing


class Pacer(Paced):
    """One request that decodes block by block."""

    def __init__(
        self, timing: Timing, plan: Plan, started_ns: int, clock: Callable[[], int]
    ) -> None:
        options = plan.options
        super().__init__(timing, options, started_ns, clock)
        self._diffusion = timing.config.diffusion
        # Given steps are an upper bound.
        self.capped = options.steps is not None or options.steps_per_block is not None
        self._guided = options.guidance > 0
        self._ahead: dict[tuple[int, int], list[Stretch]] = {}  # from a part of a block on
        self.plan = plan
        self._prices = Prices(self._costs, self._diffusion, plan)
        self._ready(self._prices.step(0, self._prices.holes(0)), self._prices.least())
        self._promise()

    # What the request will be.

    def _promise(self) -> None:
        """Fit the plan to the budget; raises BudgetError when that is wanted and nothing fits."""
        if not self.pace.trusted:
            return
        self._check_least()
        if not self._diffusion.caches and not self.plan.canvas.is_form:
            self._cut_canvas()
        elif self._coarse:
            prefill = self._prices.prefill()
            if not self._controller.fits(prefill + self._prices.mandatory(0)):
                self._merge(0, prefill)
        self.predicted_ns = self._prediction()

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

    def _least(self, start: int) -> Work:
        return self._prices.least(start)

    def _predict(self, active: int, context: int, head_rows: int) -> float:
        return self._prices.forward(active, context, head_rows)

    def _sample(self, sample: Sample) -> None:
        if not self._guided:  # that is two forwards
            super()._sample(sample)

    def weighs_reuse(self, index: int, part: int, holes: int) -> None:
        """Use an approximate cache only where it makes the steps to come cheaper."""
        if self.dual is not None:
            usual_ns = self._stretches(index, part, holes)[0].step_ns
            self.dual.is_on = usual_ns < self._prices.step(index, holes)

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

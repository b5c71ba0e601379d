"""What the forwards of one request are predicted to cost, in ns."""

from __future__ import annotations

import numpy as np

from edge.budget import Work
from edge.config import DiffusionConfig
from edge.costs import StepCosts
from edge.plan import Plan


class Prices:
    """Prices of a plan's forwards, and of those that its approximate cache would save."""

    def __init__(self, costs: StepCosts, diffusion: DiffusionConfig, plan: Plan) -> None:
        self._costs = costs
        self._diffusion = diffusion
        self._plan = plan
        self._guided = plan.options.guidance > 0
        self._known: dict[tuple[int, int, int], float] = {}
        self.dual = plan.dual_cache()

    def forward(self, rows: int, context: int, head_rows: int) -> float:
        """A forward of so many rows."""
        shape = (rows, context, head_rows)
        if shape not in self._known:
            unguided = self._costs.predict(rows, context, 0) if self._guided else 0.0
            self._known[shape] = self._costs.predict(*shape) + unguided
        return self._known[shape]

    def holes(self, index: int) -> int:
        """Open positions of a block."""
        block = self._plan.blocks[index]
        return len(self._plan.canvas.holes(block.start, block.stop))

    def step(self, index: int, head_rows: int) -> float:
        """A step of a block whose keys and values are exact."""
        if not self._diffusion.caches:
            return self.forward(len(self._plan.canvas), 0, head_rows)
        block = self._plan.blocks[index]
        return self.forward(block.stop - block.origin, block.origin, head_rows)

    def next_step(self, index: int, head_rows: int) -> float:
        """The step that would be run now, which an approximate cache makes cheap or not."""
        if self.dual is None:
            return self.step(index, head_rows)
        num_committed = int(np.count_nonzero(self._plan.canvas.committed))
        return self._near(self.dual.num_active(self._plan.blocks[index], num_committed), head_rows)

    def usual_step(self, index: int, head_rows: int, time_ns: float) -> float:
        """The mean step of a block that has so much time, refreshes of the cache included.

        There are two of them in a block, at its entry and once half of it is committed, and
        further ones where there are many steps between.
        """
        full_ns = self.step(index, head_rows)
        if self.dual is None:
            return full_ns
        start, stop = self.dual.span(self._plan.blocks[index])
        near_ns = min(self._near(stop - start, head_rows), full_ns)
        steps = 2 + (time_ns - 2 * full_ns) / near_ns
        between = min(max(1.0, steps / 2), self.dual.interval)
        return (full_ns + (between - 1) * near_ns) / between

    def _near(self, rows: int, head_rows: int) -> float:
        return self.forward(rows, len(self._plan.canvas) - rows, head_rows)

    def fusing(self, index: int) -> float:
        """What storing everything before a block adds to its first step."""
        block, holes = self._plan.blocks[index], self.holes(index)
        stored = (
            [self._plan.num_reused, *self._plan.prefill_stops(self._diffusion)]
            if index == 0
            else [self._plan.blocks[index - 1].origin]
        )
        start = stored[-1]
        return self.forward(block.stop - start, start, holes) - self.step(index, holes)

    def store(self, index: int) -> float:
        """What has to follow a block before the next one begins."""
        if not self._diffusion.caches or index + 1 >= len(self._plan.blocks):
            return 0.0
        if self._plan.fused:
            return self.fusing(index + 1)
        return self.step(index, int(self._diffusion.carries))

    def prefill(self, start: int = 0) -> Work:
        """What is left of storing the prompt once all before ``start`` is stored."""
        origin = self._plan.blocks[0].origin
        start = max(start, self._plan.num_reused)
        times = []
        for stop in self._plan.prefill_stops(self._diffusion):
            if stop > start:
                carries = int(self._diffusion.carries and stop == origin)
                times.append(self.forward(stop - start, start, carries))
                start = stop
        if self._plan.fused and origin > self._plan.num_reused:
            times.append(self.fusing(0))
        return Work.of(times)

    def mandatory(self, index: int) -> Work:
        """A step and, but for the last, a store forward of each block from ``index`` on."""
        blocks = range(index, len(self._plan.blocks))
        steps = Work.of(self.step(b, self.holes(b)) for b in blocks)
        return steps + Work.of(self.store(b) for b in blocks)

    def whole_canvas(self, num_blocks: int) -> Work:
        """Under full attention: a step over so many blocks and all before them."""
        blocks = self._plan.blocks[:num_blocks]
        rows = len(self._plan.canvas.holes(blocks[0].start, blocks[-1].stop))
        return Work.of([self.forward(blocks[-1].stop, 0, rows)])

    def least(self, start: int = 0) -> Work:
        """The smallest proper answer, one step of the first block; ``start`` as for prefill."""
        if self._diffusion.caches or self._plan.canvas.is_form:
            return self.prefill(start) + Work.of([self.step(0, self.holes(0))])
        return self.whole_canvas(1)

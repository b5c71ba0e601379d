"""The loop: blocks, steps, commits. Joins engine and sampler and yields what happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge import early_stop, remask
from edge.canvas import Block, RowStats
from edge.credit import Credit
from edge.editing import rounds_of
from edge.engine import Engine, Session
from edge.guesses import Guesses
from edge.loop import Loop
from edge.pacing import Pacer
from edge.plan import Part, Plan
from edge.prefix import KeptPrefix
from edge.result import Commit, Done, Draft
from edge.samplers.base import BlockProgress
from edge.timing import Timing
from edge.tokenizer import Tokenizer


class Generation(Loop[Pacer]):
    """One request whose blocks are refined one after the other."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None,
        plan: Plan,
        started_ns: int,
        timing: Timing | None = None,
        verify: Callable[[str], bool] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        kept: KeptPrefix | None = None,
    ) -> None:
        pacer = None
        if plan.options.has_budget and timing is not None:
            pacer = Pacer(timing, plan, started_ns, clock)
            plan = pacer.plan
        self._session = _open_session(engine, plan, pacer, kept)
        super().__init__(engine, tokenizer, plan, self._session, started_ns, pacer, verify, clock)
        self._guesses = Guesses(len(plan.canvas))

    def run(self) -> Iterator[Draft | Commit | Done]:
        """Yield a Draft per step, a Commit whenever the answer's beginning grows, then Done."""
        try:
            status = yield from self._run_blocks()
        finally:
            self._session.close()
        if self._pacer is not None:
            status = self._pacer.status(status, filled=self._guesses.used)
        yield from self._reporting.done(status)

    def _run_blocks(self) -> Generator[Draft | Commit, None, str]:
        blocks = self._plan.blocks
        carried = None
        for stop in self._plan.prefill_stops(self._diffusion):
            carried = self._forward("prefill", partial(self._session.prefill, stop))
            if carried is None:
                return self._stopped()
            if self._pacer is not None:
                self._pacer.chunk_done(stop)
        for index, block in enumerate(blocks):
            if carried is not None:
                self._commits.give(carried)
            status = yield from self._run_block(index)
            if status in ("complete", "eos") and self._options.remask == "conf":
                status = yield from self._refine(index, status)
            if status != "complete":
                return status
            if self._has_no_time_after(index):
                return "shortened"
            if self._stores(index, block):
                carried = self._forward("store", partial(self._session.store, block))
                if carried is None:
                    return self._stopped()
        return "complete"

    def _has_no_time_after(self, index: int) -> bool:
        is_last = index + 1 == len(self._plan.blocks)
        if self._pacer is None or is_last or not self._diffusion.caches:
            return False
        return not self._pacer.goes_on(index)

    def _stores(self, index: int, block: Block) -> bool:
        """The last block's keys and values serve nobody, but the published loops store it."""
        if not self._diffusion.caches or self._plan.fused:
            return False
        return index + 1 < len(self._plan.blocks) or (self._options.reference and block.whole)

    def _refine(self, index: int, status: str) -> Generator[Draft | Commit, None, str]:
        """Remask while steps are left: a block that is about to be stored, or the whole answer."""
        span = self._refinable(index, status)
        if span is None:
            return status
        block = Block(*span, span[0], whole=False) if not self._diffusion.caches else None
        steps_left = partial(self._spare_steps, index, span, ends=status == "eos")
        for round_ in remask.rounds(self._canvas, self._commits.confidence, span, steps_left):
            before = self._commits.figures()
            run = self._run_part if self._pacer is None else partial(self._run_round, steps_left)
            filled = yield from run(index, Part(*span, round_.num_steps), block)
            if filled in ("cancelled", "shortened"):
                round_.undo()
                self._commits.restore(before)
                if filled == "cancelled":
                    return filled
                break
            self._tally.remasked_tokens += len(round_.positions)
            if len(self._canvas.holes(*span)):  # a new end token came up before them
                return "eos"
        self._answer.settled = span[1]
        return status if self._answer.eos_index() is None else "eos"

    def _run_round(
        self, steps_left: Callable[[], int], index: int, part: Part, block: Block | None
    ) -> Generator[Draft | Commit, None, str]:
        """Decide remasked positions anew against the clock; "shortened" where it won."""
        while len(holes := self._canvas.holes(part.start, part.stop)):
            limit = steps_left()
            if limit < 1:
                return "shortened"
            rows = self._denoise(block or self._plan.blocks[index], holes)
            if rows is None:
                return self._stopped()
            planned = min(limit, 1 + steps_left(), len(holes))
            progress = BlockProgress(0, planned, len(holes), 0)
            yield from self._take(index, rows, rows, progress, everything=False)
            if self._answer.ends_early():
                return "eos"
        return "complete"

    def _refinable(self, index: int, status: str) -> tuple[int, int] | None:
        """(start, stop) of what may be remasked after a block: neither an end token nor beyond."""
        block, caches = self._plan.blocks[index], self._diffusion.caches
        if not caches and status == "complete" and index + 1 < len(self._plan.blocks):
            return None
        end = self._answer.eos_index()
        stop = block.stop if end is None else self._canvas.output_start + end
        # The first token of a block may come from the forward that stored the one before.
        start = block.start + self._diffusion.carries if caches else self._canvas.output_start
        return (start, stop) if start < stop else None

    def _spare_steps(self, index: int, span: tuple[int, int], *, ends: bool) -> int:
        """Steps up to and with this block that were planned, or have time, and were not needed."""
        parts = [part for parts in self._plan.parts[: index + 1] for part in parts]
        planned = sum(part.steps for part in parts) - self._tally.steps
        if self._pacer is None:
            return planned
        head_rows = int(np.ceil((span[1] - span[0]) * remask.ROUND_SHARE))
        in_time = self._pacer.spare_steps(index, head_rows, ends=ends)
        return min(planned, in_time) if self._pacer.capped else in_time

    def _run_block(self, index: int) -> Generator[Draft | Commit, None, str]:
        yield from self._reporting.commit(self._answer.settled_prefix())
        for part in self._plan.parts[index]:
            if self._answer.ends_early():
                return "eos"
            run = self._run_part if self._pacer is None else self._run_part_in_time
            status = yield from run(index, part)
            if status != "complete":
                return status
        if self._tally.first_block_ns is None:
            self._tally.first_block_ns = self._clock()
        return "eos" if self._answer.ends_after_block() else "complete"

    def _run_part(
        self, index: int, part: Part, block: Block | None = None
    ) -> Generator[Draft | Commit, None, str]:
        block = block or self._plan.blocks[index]
        rule = early_stop.begin(self._options.early_stop)
        rounds = rounds_of(self._plan, self._commits, part)
        num_holes = len(self._canvas.holes(part.start, part.stop))
        # Every step commits at least one hole, so a part needs no more than it has holes.
        for step in range(part.steps if self._runs_all_steps else num_holes + rounds.more_steps):
            holes = self._canvas.holes(part.start, part.stop)
            if not len(holes) and not self._runs_all_steps and not rounds.goes_on():
                break
            rows = self._denoise(block, rounds.asked(holes))
            if rows is None:
                return "cancelled"
            own = rounds.edit(rows, holes)
            progress = self._progress(part, step, num_holes, num_holes - len(holes))
            stops = rule is not None and len(holes) > 0 and rule.is_due(own, progress)
            yield from self._take(index, rows, own, progress, everything=stops)
            if self._answer.ends_early():
                return "eos"
        self._answer.part_done(part.stop)
        return "complete"

    def _denoise(self, block: Block, positions: NDArray[np.int32]) -> RowStats | None:
        fuses = self._plan.fused and self._session.forwards == 0
        kind = "prefill" if fuses and block.origin > self._plan.num_reused else "denoise"
        return self._forward(kind, partial(self._session.denoise, block, positions))

    def _run_part_in_time(self, index: int, part: Part) -> Generator[Draft | Commit, None, str]:
        """The same under a latency budget: what has no time for its own step is filled."""
        pacer, block = self._pacer, self._plan.blocks[index]
        assert pacer is not None
        number = self._plan.parts[index].index(part)
        rule = early_stop.begin(self._options.early_stop)
        num_holes, step = len(self._canvas.holes(part.start, part.stop)), 0
        while len(holes := self._canvas.holes(part.start, part.stop)):
            known = self._guesses.cover(holes)
            pacer.weighs_reuse(index, number, len(holes))
            if pacer.is_over(index, len(holes), begins=step == 0 and number == 0):
                break
            if known and not pacer.may_step(index, number, len(holes)):
                break
            asked = self._asked(index, number, holes)
            rows = self._denoise(block, asked)
            if rows is None:
                if self._stopped() == "cancelled":
                    return "cancelled"
                break
            pacer.first_step_done()
            self._guesses.take(rows)
            own = rows.take(np.arange(len(holes)), holes)
            planned = pacer.planned_steps(index, number, step, len(holes))
            so_far = BlockProgress(step, step + planned, num_holes, num_holes - len(holes))
            stops = rule is not None and rule.is_due(own, so_far)
            progress = BlockProgress(0, planned, len(holes), 0)
            yield from self._take(index, rows, own, progress, everything=stops)
            if self._answer.ends_early():
                return "eos"
            step += 1
        return (yield from self._fill(part))

    def _asked(self, index: int, number: int, holes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Positions that a step looks at: where time is short, of later parts as well."""
        block, pacer = self._plan.blocks[index], self._pacer
        if pacer is None or not pacer.looks_ahead(index, number, len(holes)):
            return holes
        if self._diffusion.caches:
            return self._canvas.holes(int(holes[0]), block.stop)
        whole = self._session.num_active(block) == len(self._canvas)
        return self._canvas.holes(int(holes[0])) if whole else holes

    def _fill(self, part: Part) -> Generator[Commit, None, str]:
        """Commit the last guesses of a part's holes; "shortened" where there is none."""
        holes = self._canvas.holes(part.start, part.stop)
        if not len(holes):
            return "complete"
        if not self._guesses.cover(holes):
            return "shortened"
        self._commits.fill(self._guesses.use(holes))
        yield from self._reporting.commit(self._answer.settled_prefix())
        return "complete"

    def _take(
        self,
        index: int,
        rows: RowStats,
        own: RowStats,
        progress: BlockProgress,
        *,
        everything: bool,
    ) -> Iterator[Draft | Commit]:
        """Commit of the part's ``own`` rows, show all ``rows`` of the step."""
        self._commits.choose(own, progress, everything=everything)
        self._tally.step(index)
        yield self._reporting.draft(index, rows)
        yield from self._reporting.commit(self._answer.settled_prefix())

    def _progress(self, part: Part, step: int, num_holes: int, num_filled: int) -> BlockProgress:
        """Published loops of block models count a ragged first block as a whole one."""
        reference = self._options.reference and self._diffusion.caches
        whole_block = self._diffusion.sub_block_length is None
        published = self._diffusion.block_length if whole_block else part.stop - part.start
        return BlockProgress(
            step=step,
            num_steps=part.steps,
            num_holes=published if reference else num_holes,
            num_committed=num_filled,
            keeps_share=reference and whole_block,
        )

    @property
    def _runs_all_steps(self) -> bool:
        published = self._options.reference and not self._diffusion.caches
        return published and self._plan.sampler.reference_runs_all_steps


def _open_session(
    engine: Engine, plan: Plan, pacer: Pacer | None, kept: KeptPrefix | None
) -> Session:
    options = plan.options
    return engine.open(
        plan.canvas,
        options.candidates,
        guidance_scale=options.guidance,
        cancel=options.cancel,
        dual=plan.dual_cache() if pacer is None else pacer.dual,
        credit=Credit() if options.credit else None,
        kept=kept,
        num_reused=plan.num_reused,
    )

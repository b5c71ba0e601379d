"""The loop that goes from left to right: every token is the model's own next one.

``autoregressive`` gives a token per forward. ``speculative`` gives the very same tokens in fewer:
drafts are rows of the next forward, which keeps those that agree with its own next tokens. Which
bits a row has does not depend on what is computed beside it, so the text is the same however much
is drafted. Only under a latency budget that verified text cannot meet are drafts taken on trust.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge import samplers
from edge.canvas import RowStats
from edge.drafting import LONGEST, Drafting, Price, Reach
from edge.engine import Engine
from edge.in_order_pacing import InOrderPacer
from edge.loop import Loop
from edge.plan import Plan
from edge.prefix import KeptPrefix
from edge.result import Commit, Done, Draft
from edge.timing import Timing
from edge.tokenizer import Tokenizer
from edge.trunk import Seen, Trunk


class InOrder(Loop[InOrderPacer]):
    """One request that is decoded from left to right."""

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
        options, diffusion, pacer = plan.options, engine.config.diffusion, None
        if options.has_budget and timing is not None:
            pacer = InOrderPacer(timing, plan, started_ns, clock)
        self._trunk = Trunk(
            engine, plan.canvas, options.candidates, options.cancel, kept, plan.num_reused
        )
        super().__init__(engine, tokenizer, plan, self._trunk, started_ns, pacer, verify, clock)
        self._timing = timing
        longest, rows = diffusion.block_length - 1, diffusion.draft_rows
        self._drafting = timing.drafting if timing is not None else Drafting(longest, rows)
        self._drafts = samplers.drafts(plan.sampler_name)
        self._length = plan.canvas.output_start  # of what is given
        self._ahead: RowStats | None = None  # drafted for the positions from there on
        self._filled = False

    def run(self) -> Iterator[Draft | Commit | Done]:
        """Yield a Draft per forward, a Commit whenever the answer grows, then Done."""
        try:
            status = yield from self._decode()
        finally:
            self._trunk.close()
        if self._pacer is not None:
            status = self._pacer.status(status, filled=self._filled)
        yield from self._reporting.done(status)

    def _decode(self) -> Generator[Draft | Commit, None, str]:
        # The last of these chunks is read by the first forward that gives a token.
        for stop in self._plan.prefill_stops(self._diffusion)[:-1]:
            if self._forward("prefill", partial(self._trunk.prefill, stop)) is None:
                return self._stopped()
            if self._pacer is not None:
                self._pacer.chunk_done(stop)
        while self._length < len(self._canvas):
            if self._is_over():
                return (yield from self._fill())
            if not (yield from self._step()):
                status = self._stopped()
                return status if status == "cancelled" else (yield from self._fill())
            if self._answer.ends_early():
                return "eos"
        return "complete"

    def _is_over(self) -> bool:
        waiting, context = self._num_waiting, self._trunk.num_stored
        return self._pacer is not None and self._pacer.is_over(waiting, context)

    def _step(self) -> Generator[Draft | Commit, None, bool]:
        """One forward and what it gives; false where it was stopped."""
        reach, due = self._reach()
        drafted, granted = self._to_verify(reach, due)
        branches = self._branches(granted, due - 1 if due else reach.length)
        plain = self._length - self._trunk.num_stored + len(drafted)
        forward = partial(self._trunk.forward, self._length, drafted, branches)
        predicted, before = self._predicted(), self._clock()
        kind = "denoise" if self._tally.steps else "prefill"
        seen = self._forward(kind, forward)
        if seen is None:
            return False
        spent = self._clock() - before
        block, first = self._block(), self._length
        self._take(seen, drafted, due)
        if self._tally.steps:
            given = self._length - first
            self._drafting.took(plain, self._trunk.num_masked, given, spent, predicted)
        self._tally.step(block)
        yield self._reporting.draft(block, seen.own if self._ahead is None else self._ahead)
        yield from self._reporting.commit(self._answer.settled_prefix())
        return True

    def _take(self, seen: Seen, drafted: NDArray[np.int32], due: int) -> None:
        """Commit what was verified and, where time asks for it, what was not."""
        wrong = np.flatnonzero(drafted != seen.own.tokens[: len(drafted)])
        agreed = int(wrong[0]) if len(wrong) else len(drafted)
        self._tally.verified(len(drafted), agreed)
        self._trunk.keep(self._length + agreed)
        left = self._learn(seen.own, len(drafted), agreed)
        self._ahead = seen.ahead.get(agreed, left)
        self._give(seen.own, agreed + 1)
        if self._pacer is not None:
            self._pacer.first_step_done()
        self._trust(due - agreed - 1)

    def _learn(self, own: RowStats, compared: int, agreed: int) -> RowStats | None:
        """Compare one more token than had a row; what is left of the draft, if all of it agree."""
        if self._ahead is None:
            return None
        drafted, known = self._ahead, min(compared + 1, len(self._ahead.tokens))
        same = agreed == compared < known and drafted.tokens[agreed] == own.tokens[agreed]
        self._drafting.compared(drafted.confidence[:known].tolist(), agreed + bool(same))
        rest = np.arange(agreed + 1, len(drafted.tokens))
        return drafted.take(rest, drafted.positions[rest]) if same and len(rest) else None

    def _trust(self, count: int) -> None:
        """Commit the next drafted tokens without having compared them."""
        if self._ahead is None or count < 1:
            return
        rows, before = self._ahead, self._length
        count = min(count, len(rows.positions))
        rest = np.arange(count, len(rows.positions))
        self._ahead = rows.take(rest, rows.positions[rest]) if len(rest) else None
        self._give(rows, count, np.ones(len(rows.positions), np.bool_))
        self._tally.unverified_tokens += self._length - before

    def _give(self, rows: RowStats, count: int, forced: NDArray[np.bool_] | None = None) -> None:
        """Commit the first rows, none behind an end token."""
        ends = np.flatnonzero(np.isin(rows.tokens[:count], self._diffusion.eos_ids))
        if len(ends):
            count, self._ahead = int(ends[0]) + 1, None
        self._commits.give(rows, np.arange(count), forced)
        self._length += count

    def _fill(self) -> Generator[Commit, None, str]:
        """The clock has won: what is drafted stands for what has no forward of its own."""
        if self._ahead is not None:
            self._filled = True
            self._trust(len(self._ahead.positions))
        yield from self._reporting.commit(self._answer.settled_prefix())
        if self._answer.ends_early():
            return "eos"
        return "complete" if self._length == len(self._canvas) else "shortened"

    # How far to draft.

    def _reach(self) -> tuple[Reach, int]:
        """How far to draft, and how many tokens a forward has to give in any case."""
        if not self._drafts:
            return Reach(), 0
        predicted, fixed = self._predicted(), self._plan.options.block_length
        most = self._diffusion.block_length if fixed is None else fixed
        longest = min(most, len(self._canvas)) - 1
        reach = self._drafting.reach(predicted, None if fixed is None else longest)
        if self._pacer is None:
            return reach, 0
        left = len(self._canvas) - self._length
        price = self._drafting.price(predicted)
        rows = reach.num_branches * self._diffusion.draft_rows(reach.length)
        waiting = self._num_waiting
        if not self._pacer.affords(price(waiting + reach.length, rows)):
            reach = Reach()
        return reach, self._pacer.tokens_due(left, min(longest, LONGEST), waiting, price)

    @property
    def _num_waiting(self) -> int:
        """Given tokens that the next forward has to store: several after drafts on trust."""
        return self._length - self._trunk.num_stored

    def _to_verify(self, reach: Reach, due: int) -> tuple[NDArray[np.int32], list[int]]:
        """The drafted tokens that the next forward compares, and how many of them a branch each
        takes for granted.
        """
        if self._ahead is None or due:
            return np.empty(0, np.int32), [0]
        room = len(self._canvas) - 1 - self._length
        sure = self._ahead.confidence[:room].tolist()
        count, granted = self._drafting.to_compare(sure, reach, self._predicted())
        return self._ahead.tokens[:count], granted if count else [0]

    def _branches(self, granted: list[int], length: int) -> list[tuple[int, int]]:
        """(drafted tokens taken for granted, tokens to draft behind) of the next forward."""
        room = len(self._canvas) - 1 - self._length
        shapes = [(taken, min(length, room - taken)) for taken in granted]
        return [(taken, count) for taken, count in shapes if count > 0]

    def _predicted(self) -> Price:
        """What a forward is expected to take here."""
        context = self._trunk.num_stored
        if self._timing is None:
            return lambda plain, masked: float(plain + masked)
        costs = self._timing.costs

        def price(plain: int, masked: int) -> float:
            return costs.predict(plain + masked, context, plain + masked)

        return price

    def _block(self) -> int:
        blocks = self._plan.blocks
        return next(i for i, block in enumerate(blocks) if self._length < block.stop)

"""A latency budget of a request that is decoded in order: what may begin, and what has to be taken
on trust so that the answer is whole in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from edge.budget import Controller, Work
from edge.canvas import RowStats
from edge.costs import Sample
from edge.drafting import Price
from edge.errors import BudgetError
from edge.pacing import budget_of
from edge.plan import Plan
from edge.timing import Timing

_KEPT_BACK = 0.05  # of the time left, for the spread of what is predicted


class InOrderPacer:
    """One request against its deadline; without a budget none of this is used."""

    cut = False

    def __init__(
        self, timing: Timing, plan: Plan, started_ns: int, clock: Callable[[], int]
    ) -> None:
        self._timing = timing
        self._clock = clock
        self._costs = timing.costs
        self.cost_source = self._costs.source
        self.pace = timing.pace
        self.pace.rest_until(started_ns)
        self.budget_ns = budget_of(plan.options, started_ns)
        self._strict = plan.options.on_infeasible == "error"
        self._samples: list[Sample] = []
        self._last_end_ns: int | None = None
        self.answered = False
        self.infeasible = False
        self.predicted_ns: float | None = None
        self.min_budget_ns = 0.0  # these two are known at the end
        self.rate = (1.0, 0.0)
        num_pauses = timing.config.denoiser.num_layers if timing.stoppable else 1
        self.pace.grain_ns = self._costs.predict(1, 0, 1) / num_pauses
        self._controller = Controller(clock, started_ns, self.budget_ns, self.pace)
        self._entry_ns = clock() - started_ns
        stops = plan.prefill_stops(timing.config.diffusion) or [plan.canvas.output_start]
        self._starts = [plan.num_reused, *stops]
        self._least_work = self._least(plan.num_reused)
        if self.pace.trusted:
            self._promise(len(plan.canvas) - plan.canvas.output_start)

    def _promise(self, num_tokens: int) -> None:
        """Raises BudgetError where nothing fits and that is wanted."""
        self.infeasible = not self._controller.fits(self._least_work)
        if self.infeasible and self._strict:
            raise self.refusal()
        each = Work.of([self._costs.predict(1, self._starts[-1], 1)] * (num_tokens - 1))
        expected = self.pace.expected(self._least_work + each)
        self.predicted_ns = min(self._entry_ns + expected, max(self.budget_ns, 0.0))

    def _least(self, start: int) -> Work:
        """Reading the prompt from ``start`` on, which gives the first token."""
        stops = self._starts
        pairs = [(a, b) for a, b in pairwise(stops) if b > start]
        return Work.of(self._costs.predict(b - a, a, int(b == stops[-1])) for a, b in pairs)

    def refusal(self) -> BudgetError:
        """The error that names the smallest feasible budget."""
        wanted, least = self.budget_ns / 1e6, math.ceil(self._smallest_budget() / 1e6)
        return BudgetError(
            f"a budget of {wanted:.4g} ms is too short for this model and prompt on this device",
            budget_ms=wanted,
            min_budget_ms=float(least),
            hint=f"give at least {least} ms, or ask for the best effort",
        )

    def _smallest_budget(self) -> float:
        return self.pace.least_budget(self._entry_ns + self.pace.bound(self._least_work))

    # While it runs.

    def chunk_done(self, stop: int) -> None:
        """The prompt is stored so far; raises BudgetError once the rest does not fit, if asked."""
        if self._strict and not self._controller.fits(self._least(stop)):
            raise self.refusal()

    @property
    def stop_at_ns(self) -> int:
        """When the next forward has to be stopped; 0: never."""
        if not self.answered and not (self._strict and self.pace.trusted):
            return 0
        return max(1, int(self._controller.limit_ns))

    def is_over(self, waiting: int, context: int) -> bool:
        """Whether there is no time for another forward, of so many rows at least."""
        step = Work.of([self._costs.predict(waiting, context, 1)])
        return self.answered and not self._controller.fits(step)

    def tokens_due(self, left: int, longest: int, waiting: int, price: Price) -> int:
        """Tokens that each forward has to give so that all that are left are there in time.

        0 where verified ones come in time; at most a draft of the ``longest`` and the token before.
        Where that is too few, as many as will come at all. The next forward has ``waiting`` plain
        rows, later ones as many as tokens are due.
        """
        rows_of = self._timing.config.diffusion.draft_rows
        time_ns = self._controller.left_ns * (1 - _KEPT_BACK)
        if not self.pace.trusted or not self.answered:
            return 0
        if left <= time_ns * self._timing.drafting.hoped(price):
            return 0
        given = {}
        for due in range(2, longest + 2):
            masked = rows_of(due - 1)
            after_ns = time_ns - price(waiting, masked)
            forwards = 1 + int(after_ns // price(due, masked)) if after_ns >= 0 else 0
            given[due] = due * forwards
        enough = (due for due, tokens in given.items() if tokens >= left)
        most = max(given, key=lambda due: given[due], default=0)
        return next(enough, most if given.get(most) else 0)

    def affords(self, time_ns: float) -> bool:
        """Whether a forward of that time can be begun."""
        left_ns = self._controller.left_ns * (1 - _KEPT_BACK)
        return not self.answered or time_ns <= left_ns

    def begins(self) -> None:
        """A forward is about to run."""
        if self._last_end_ns is not None:
            self.pace.between_ns.add(self._clock() - self._last_end_ns)

    def ended(self, shape: tuple[int, int, int], spent_ns: int, rows: RowStats | None) -> None:
        """A forward of (active, context, head rows) took so long; None: it was stopped."""
        self._last_end_ns = self._clock()
        predicted = self._costs.predict(*shape)
        if self.answered and self._last_end_ns > self._controller.limit_ns:
            self.pace.was_late(self._last_end_ns - self._controller.limit_ns)
        if rows is not None:
            self.pace.observe(spent_ns, predicted)
            self._samples.append(Sample(*shape, spent_ns, rows.head_ns))
        elif spent_ns > self.pace.u * predicted:
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
        if self.infeasible and self._is_late():
            return "deadline_infeasible"
        return "filled" if filled and status != "shortened" else status

"""A latency budget of a request that is decoded in order: what may begin, and what has to be taken
on trust so that the answer is whole in time.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from edge.budget import Work
from edge.drafting import Price
from edge.paced import Paced
from edge.plan import Plan
from edge.timing import Timing

_KEPT_BACK = 0.05  # of the time left, for the spread of what is predicted


class InOrderPacer(Paced):
    """One request that decodes from left to right; without a budget none of this is used."""

    def __init__(
        self, timing: Timing, plan: Plan, started_ns: int, clock: Callable[[], int]
    ) -> None:
        super().__init__(timing, plan.options, started_ns, clock)
        stops = plan.prefill_stops(timing.config.diffusion) or [plan.canvas.output_start]
        self._starts = [plan.num_reused, *stops]
        self._ready(self._predict(1, 0, 1), self._least(plan.num_reused))
        if self.pace.trusted:
            self._promise(len(plan.canvas) - plan.canvas.output_start)

    def _promise(self, num_tokens: int) -> None:
        """Raises BudgetError where nothing fits and that is wanted."""
        self._check_least()
        each = Work.of([self._predict(1, self._starts[-1], 1)] * (num_tokens - 1))
        expected = self.pace.expected(self._least_work + each)
        self.predicted_ns = min(self._entry_ns + expected, max(self.budget_ns, 0.0))

    def _least(self, start: int) -> Work:
        """Reading the prompt from ``start`` on, which gives the first token."""
        stops = self._starts
        pairs = [(a, b) for a, b in pairwise(stops) if b > start]
        return Work.of(self._predict(b - a, a, int(b == stops[-1])) for a, b in pairs)

    # While it runs.

    def is_over(self, waiting: int, context: int) -> bool:
        """Whether there is no time for another forward, of so many rows at least."""
        step = Work.of([self._predict(waiting, context, 1)])
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

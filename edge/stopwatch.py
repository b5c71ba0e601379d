"""The clock of a request whose forwards are not planned one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.costs import StepCosts
from edge.errors import BudgetError
from edge.request import GenerateConfig

_RESERVE = 0.02  # of a latency budget, for what follows the last forward


class Stopwatch:
    """What a request without a plan may take, and what it took.

    Its least answer, set ``answered`` once that is there, is only stopped where an error was asked
    for; everything after it ends when the budget does.
    """

    def __init__(
        self,
        options: GenerateConfig,
        started_ns: int,
        costs: Callable[[], StepCosts],
        clock: Callable[[], int],
    ) -> None:
        self._started_ns = started_ns
        self._clock = clock
        self._costs = costs() if options.has_budget else None
        self._budget_ns = options.budget_ns(started_ns)
        self._strict = options.on_infeasible == "error"
        self._least_ns = 0.0  # predicted time of the least answer
        self._spent_ns = 0
        self._first_ns: dict[str, int] = {}
        self.answered = False  # the least answer is there
        self.late = False  # it came too late
        self.stopped = False  # a forward was, or need not begin

    @property
    def limit_ns(self) -> int:
        """When the next forward has to be stopped; 0: never."""
        if self._costs is None or not (self.answered or self._strict):
            return 0
        return max(1, int(self._started_ns + (1 - _RESERVE) * self._budget_ns))

    def run(
        self, forward: Callable[[], NDArray[np.float64] | None], rows: int, head_rows: int
    ) -> NDArray[np.float64] | None:
        """Run a forward of so many rows."""
        begin_ns = self._clock()
        if self._costs is not None and not self.answered:
            self._least_ns += self._costs.predict(rows, 0, head_rows)
        answers = forward()
        now_ns = self._clock()
        self._spent_ns += now_ns - begin_ns
        if not self.answered:
            self.late = now_ns - self._started_ns > self._budget_ns
        self.stopped = answers is None or self.late
        return answers

    def check(self) -> None:
        """Raise BudgetError for a late least answer where that was asked for."""
        if not self._strict or self.answered or not self.stopped:
            return
        wanted_ms, spent_ms = self._budget_ns / 1e6, (self._clock() - self._started_ns) / 1e6
        least = float(math.ceil(max(spent_ms, self._least_ms)))
        raise BudgetError(
            f"a budget of {wanted_ms:.4g} ms is too short for these choices on this device",
            budget_ms=wanted_ms,
            min_budget_ms=least,
            hint=f"give at least {least:.0f} ms, or ask for the best effort",
        )

    def note(self, event: str) -> None:
        """Remember when ``event`` happened first."""
        self._first_ns.setdefault(event, self._clock())

    def figures(self) -> dict[str, Any]:
        """The times of a request that ends now."""
        firsts = {name: (at - self._started_ns) / 1e6 for name, at in self._first_ns.items()}
        elapsed_ms = (self._clock() - self._started_ns) / 1e6
        figures = {"elapsed_ms": elapsed_ms, "denoise_ms": self._spent_ns / 1e6, **firsts}
        if self._costs is None:
            return figures
        return {
            **figures,
            "budget_ms": self._budget_ns / 1e6,
            "overshoot_ms": elapsed_ms - self._budget_ns / 1e6,
            "min_budget_ms": self._least_ms,
            "cost_source": self._costs.source,
        }

    @property
    def _least_ms(self) -> float:
        return self._least_ns / 1e6 / (1 - _RESERVE)

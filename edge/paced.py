"""A request against its deadline: what is the same however it decodes."""

from __future__ import annotations

import math
from collections.abc import Callable

from edge.budget import Controller, Work
from edge.costs import Sample
from edge.errors import BudgetError
from edge.request import GenerateConfig
from edge.timing import Timing


class Paced:
    """Measures its forwards, says when the next one has to be stopped, and learns from them.

    Who inherits calls ``_ready`` once its plan can be priced.
    """

    def __init__(
        self,
        timing: Timing,
        options: GenerateConfig,
        started_ns: int,
        clock: Callable[[], int],
    ) -> None:
        self._timing = timing
        self._clock = clock
        self._costs = timing.costs
        self.cost_source = self._costs.source
        self.pace = timing.pace
        self.pace.rest_until(started_ns)
        self.budget_ns = options.budget_ns(started_ns)
        self._strict = options.on_infeasible == "error"
        self._samples: list[Sample] = []
        self._last_end_ns: int | None = None
        self.answered = False  # there has been a denoising step
        self.infeasible = False
        self.cut = False  # the answer was promised shorter than asked for
        self.predicted_ns: float | None = None
        self.min_budget_ns = 0.0  # these two are known at the end
        self.rate = (1.0, 0.0)
        self._started_ns = started_ns

    def _ready(self, step_ns: float, least_work: Work) -> None:
        """The plan is priced: a usual step, and all that the least answer takes."""
        num_pauses = self._timing.config.denoiser.num_layers if self._timing.stoppable else 1
        self.pace.grain_ns = step_ns / num_pauses
        self._controller = Controller(self._clock, self._started_ns, self.budget_ns, self.pace)
        self._entry_ns = self._clock() - self._started_ns  # before the first forward could begin
        self._least_work = least_work

    def _check_least(self) -> None:
        """Raises BudgetError where nothing fits and that is wanted."""
        self.infeasible = not self._controller.fits(self._least_work)
        if self.infeasible and self._strict:
            raise self.refusal()

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

    # What a forward is expected to take, and the least work from a stored position on.

    def _predict(self, active: int, context: int, head_rows: int) -> float:
        return self._costs.predict(active, context, head_rows)

    def _least(self, start: int) -> Work:
        raise NotImplementedError

    # While it runs.

    def chunk_done(self, stop: int) -> None:
        """The prompt is stored so far; raises BudgetError once the rest does not fit, if asked."""
        if self._strict and not self._controller.fits(self._least(stop)):
            raise self.refusal()

    @property
    def stop_at_ns(self) -> int:
        """When the next forward has to be stopped; 0: never.

        The least answer is always finished, and so is the forward that puts a guess right.
        """
        if not self.answered and not (self._strict and self.pace.trusted):
            return 0
        return max(1, int(self._controller.limit_ns))

    def begins(self) -> None:
        """A forward is about to run."""
        if self._last_end_ns is not None:
            self.pace.between_ns.add(self._clock() - self._last_end_ns)

    def ended(self, shape: tuple[int, int, int], spent_ns: int, head_ns: int | None) -> None:
        """A forward of (active, context, head rows) took so long, ``head_ns`` of it its head.

        None: it was stopped.
        """
        self._last_end_ns = self._clock()
        predicted = self._predict(*shape)
        if self.answered and self._last_end_ns > self._controller.limit_ns:
            self.pace.was_late(self._last_end_ns - self._controller.limit_ns)
        if head_ns is not None:
            self.pace.observe(spent_ns, predicted)
            self._sample(Sample(*shape, spent_ns, head_ns))
        elif spent_ns > self.pace.u * predicted:
            self.pace.observe(spent_ns, predicted)

    def _sample(self, sample: Sample) -> None:
        self._samples.append(sample)

    def first_step_done(self) -> None:
        """The least answer is there; raises BudgetError if it is late and that was asked for."""
        if not self.answered and self._is_late():
            if self._strict:
                raise self.refusal()
            self.infeasible = True
        self.answered = True

    def stopped(self, options: GenerateConfig) -> str:
        """What a forward that did not end means: the caller's wish, or the deadline."""
        if options.is_cancelled:
            return "cancelled"
        if not self.answered:
            raise self.refusal()
        return "shortened"

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

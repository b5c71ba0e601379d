"""What the loops of all requests have: a plan, what was decided so far, and who tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from edge.answer import Answer
from edge.commits import Commits
from edge.editing import edits
from edge.engine import Engine
from edge.paced import Paced
from edge.plan import Plan
from edge.reporting import Reporting
from edge.tally import Forwards, Tally
from edge.tokenizer import Tokenizer

PacerKind = TypeVar("PacerKind", bound=Paced)


class Answered(Protocol):
    """What a forward gives."""

    @property
    def head_ns(self) -> int:
        """What its head took."""


Rows = TypeVar("Rows", bound=Answered)


class Loop(Generic[PacerKind]):
    """One request from its plan to its result; ``pacer`` is None without a latency budget."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None,
        plan: Plan,
        forwards: Forwards,
        started_ns: int,
        pacer: PacerKind | None,
        verify: Callable[[str], bool] | None,
        clock: Callable[[], int],
    ) -> None:
        self._forwards = forwards
        self._diffusion = engine.config.diffusion
        self._clock = clock
        self._pacer = pacer
        self._plan = plan
        self._canvas = plan.canvas
        self._options = plan.options
        self._tally = Tally(started_ns)
        self._commits = Commits(plan, self._diffusion.eos_ids, hurried=pacer is not None)
        self._answer = Answer(plan.canvas, self._diffusion, plan.options, is_edited=edits(plan))
        self._reporting = Reporting(
            engine,
            tokenizer,
            plan,
            forwards,
            self._commits,
            self._answer,
            self._tally,
            pacer,
            verify,
            clock,
        )

    def _stopped(self) -> str:
        """What a forward that did not end means: the caller's wish, or the deadline."""
        return "cancelled" if self._pacer is None else self._pacer.stopped(self._options)

    def _forward(self, kind: str, forward: Callable[[], Rows | None]) -> Rows | None:
        """Run a forward against the clock: ``prefill``, ``denoise`` or ``store``."""
        forwards, pacer = self._forwards, self._pacer
        if pacer is not None:
            pacer.begins()
            forwards.deadline_ns = pacer.stop_at_ns
        refreshes, begin = forwards.num_refreshes, self._clock()
        rows = forward()
        spent = self._clock() - begin
        head_ns = None if rows is None else rows.head_ns
        if pacer is not None:
            pacer.ended(forwards.shape, spent, head_ns)
        self._tally.forward(kind, spent, head_ns or 0)
        if forwards.num_refreshes > refreshes:
            self._tally.refresh_ns += spent
        return rows

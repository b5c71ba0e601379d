"""What a request tells while it runs and at its end: events, and the result with its statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from edge.answer import Answer
from edge.canvas import RowStats
from edge.commits import Commits
from edge.engine import Engine
from edge.guesses import draft_of
from edge.paced import Paced
from edge.plan import Plan
from edge.result import Commit, Done, Draft, Result
from edge.tally import Forwards, Tally
from edge.tokenizer import TextStream, Tokenizer


class Reporting:
    """The events of one request, made of what its loop keeps up to date."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None,
        plan: Plan,
        forwards: Forwards,
        commits: Commits,
        answer: Answer,
        tally: Tally,
        pacer: Paced | None,
        verify: Callable[[str], bool] | None,
        clock: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._plan = plan
        self._canvas = plan.canvas
        self._forwards = forwards
        self._commits = commits
        self._answer = answer
        self._tally = tally
        self._pacer = pacer
        self._verify = verify
        self._clock = clock
        self._stream = TextStream(tokenizer)

    def draft(self, block: int, rows: RowStats) -> Draft:
        """The canvas after a step, with what its rows say of the holes."""
        step, nfe = self._tally.steps, self._forwards.forwards
        draft = draft_of(self._canvas, rows, step, nfe, block, len(self._plan.blocks))
        if self._tally.first_draft_ns is None:
            self._tally.first_draft_ns = self._clock()
        if self._plan.options.on_step is not None:
            self._plan.options.on_step(draft)
        return draft

    def commit(self, prefix: NDArray[np.int32], *, at_end: bool = False) -> Iterator[Commit]:
        """What of a beginning of the answer is new, if anything."""
        text, ids = self._stream.advance(self._answer.before_eos(prefix), at_end=at_end)
        if not ids and not text:
            return
        if self._tally.first_text_ns is None:
            self._tally.first_text_ns = self._clock()
        yield Commit(text, ids)

    def done(self, status: str) -> Iterator[Commit | Done]:
        """The rest of the answer, and the result; no forward will follow."""
        answer = self._answer.ids(status)
        yield from self.commit(answer, at_end=True)
        yield Done(self._result(answer, status))

    def _result(self, answer: NDArray[np.int32], status: str) -> Result:
        text = None if self._tokenizer is None else self._tokenizer.decode(answer)
        verified = None if self._verify is None else self._verify(text or "")
        if self._pacer is not None:
            self._pacer.finish()
        confidence = self._commits.confidence
        given = confidence[~np.isnan(confidence)]
        return Result(
            text=text,
            ids=answer.tolist(),
            status=status,
            complete=self._is_whole(status),
            verified=verified,
            stats=self._tally.stats(
                self._plan,
                self._engine.backend,
                self._forwards,
                self._pacer,
                confidences=given,
                forced_tokens=int(self._commits.forced.sum()),
                edited_tokens=self._commits.num_edits,
                tokens=len(given) if self._canvas.is_form else len(answer),
                clock=self._clock,
            ),
        )

    def _is_whole(self, status: str) -> bool:
        if status == "deadline_infeasible":
            cut = self._pacer is not None and self._pacer.cut
            return not cut and (
                self._answer.eos_index() is not None or not len(self._canvas.holes())
            )
        return status not in ("cancelled", "shortened")

"""``edge`` with a denoiser that writes one word per step, as slowly as a test needs.

The prompt says what it does: a number of words; ``announce`` says on stderr that it has
begun; ``stubborn`` goes on after Ctrl-C; ``broken`` fails in the middle.
No real denoiser can be told to be slow or to fail.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edge
from edge.cli import main
from edge.result import Commit, Done, Draft, Result, Stats

STEP_SECONDS = 0.02


class SlowModel:
    """Stands in for edge.Model."""

    task = None

    @property
    def tokenizer(self) -> SlowModel:
        """The model is its own tokenizer."""
        return self

    def __enter__(self) -> SlowModel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def decode(self, ids: NDArray[np.int32]) -> str:
        """Return the text of some tokens; token 0 is the mask, 1 the first word."""
        return "".join(f"wörd{token - 1} " for token in ids.tolist())

    def stream(
        self, prompt: str, *, cancel: edge.CancelFlag, **_: Any
    ) -> Iterator[Draft | Commit | Done]:
        """Commit one word per step until all are or ``cancel`` is set; guess the next two."""
        yield from self._words(prompt, cancel)

    def stream_fill(
        self, pieces: list[Any], *, cancel: edge.CancelFlag, **_: Any
    ) -> Iterator[Draft | Commit | Done]:
        """Fill a hole as large as told between two words, as slowly."""
        hole = next(piece for piece in pieces if isinstance(piece, edge.Hole))
        for event in self._words(str(hole.max_tokens), cancel):
            if isinstance(event, Draft):
                event = around(event)
            yield event

    def conversation(self, *_: Any, **__: Any) -> SlowConversation:
        """Return one whose turns are prompts."""
        return SlowConversation(self)

    @property
    def info(self) -> SlowModel:
        """The model is its own description."""
        return self

    name = "slow\x1b[31m"

    def _words(self, prompt: str, cancel: edge.CancelFlag) -> Iterator[Draft | Commit | Done]:
        length = int(prompt) if prompt.isdecimal() else 500
        if prompt == "announce":
            print("begun", file=sys.stderr, flush=True)  # noqa: T201
        for step in range(length):
            time.sleep(STEP_SECONDS)
            if cancel.is_set() and prompt != "stubborn":
                length = step
                break
            if cancel.is_set() and step % 10 == 0:
                print("still here", file=sys.stderr, flush=True)  # noqa: T201
            if prompt == "broken" and step == 3:
                raise edge.NumericError("blk.3.attn_q: not finite")
            yield draft(step + 1, length)
            yield Commit(f"wörd{step} ", [step + 1])
        text = self.decode(np.arange(1, length + 1, dtype=np.int32))
        yield Done(result(text, length, cancel.is_set()))


class SlowConversation:
    """Stands in for edge.Conversation; ``fail`` is a turn that cannot be served."""

    num_dropped = 0

    def __init__(self, model: SlowModel) -> None:
        self._model = model
        self._turns: list[str] = []

    def stream(self, text: str, *, cancel: edge.CancelFlag) -> Iterator[Draft | Commit | Done]:
        """Answer with words."""
        if text == "fail":
            raise edge.RequestError("it cannot be served", hint="say something else")
        self._turns.append(text)
        return self._model.stream(text, cancel=cancel)

    def undo(self) -> bool:
        """Take a turn back."""
        return bool(self._turns and self._turns.pop())

    def reset(self) -> None:
        """Forget all turns."""
        self._turns.clear()


def around(words: Draft) -> Draft:
    """The same draft between two given words."""

    def padded(values: NDArray[Any], end: Any) -> NDArray[Any]:
        return np.array([end, *values.tolist(), end])

    open_ = np.zeros(len(words.ids), np.bool_)
    return dataclasses.replace(
        words,
        ids=padded(words.ids, 1000),
        draft_ids=padded(words.draft_ids, 1000),
        committed=padded(words.committed, True),
        confidence=padded(words.confidence, 1.0),
        given=padded(open_, True),
    )


def draft(step: int, length: int) -> Draft:
    """Return the canvas after ``step`` steps."""
    tokens = np.arange(1, length + 1, dtype=np.int32)
    return Draft(
        step=step,
        nfe=step,
        block=0,
        num_blocks=1,
        output_start=0,
        ids=np.where(tokens <= step, tokens, 0),
        draft_ids=np.where(tokens <= step + 2, tokens, 0),
        committed=tokens <= step,
        confidence=np.ones(length, np.float32),
    )


def result(text: str, steps: int, cancelled: bool) -> Result:
    """Return a result; only what the tests read is made up with care."""
    fields: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(Stats)), 0)
    stats = Stats(**{**fields, "steps": steps, "mean_confidence": float("nan")})
    status = "cancelled" if cancelled else "complete"
    return Result(text, list(range(steps)), status, not cancelled, stats, None)


vars(edge)["load"] = lambda *_, **__: SlowModel()
sys.exit(main())

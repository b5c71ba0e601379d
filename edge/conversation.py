"""A conversation: its messages, and what the model has stored of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from edge.errors import ContextLengthError, RequestError
from edge.prefix import KeptPrefix
from edge.result import Commit, Done, Draft, Result

ON_FULL = ("error", "drop_oldest")
_FULL_HINT = "undo or reset, or let the oldest turns be dropped (--on-full drop-oldest)"

Events = Iterator[Draft | Commit | Done]


class Ask(Protocol):
    """Answers messages; what is stored of them is taken from ``kept`` and left there."""

    def __call__(
        self,
        messages: Sequence[Mapping[str, str]],
        kept: KeptPrefix,
        options: dict[str, Any],
        started_ns: int,
    ) -> Events:
        """Raises ContextLengthError where messages and answer exceed the model's context.

        A latency budget counts from ``started_ns`` of ``time.monotonic_ns()``.
        """


class Conversation:
    """Turns of a user and a model; the model's own chat template writes them.

    What a turn has stored is not stored again by the next one, where that is exact: with block or
    causal attention, for as many tokens as the template leaves as they were. A model with full
    attention stores nothing, since there every token changes with every other.

    A turn counts when it has been answered. An answer that was cancelled stays as far as it came;
    one that failed, or was cancelled before its first token, takes the turn with it.
    """

    def __init__(self, ask: Ask, system: str | None, on_full: str, options: dict[str, Any]) -> None:
        """``options`` are those of every turn. Made by ``Model.conversation``."""
        if on_full not in ON_FULL:
            raise RequestError(f"on_full is {on_full!r}", hint=f"use {' or '.join(ON_FULL)}")
        self._ask = ask
        self._system: list[Mapping[str, str]] = []
        if system is not None:
            self._system = [{"role": "system", "content": system}]
        self._drops = on_full == "drop_oldest"
        self._options = options
        self._kept = KeptPrefix()
        self._turns: list[tuple[Mapping[str, str], Mapping[str, str]]] = []
        self.num_dropped = 0  # turns that had to go

    @property
    def messages(self) -> list[dict[str, str]]:
        """What has been said and not dropped, as ``Model.chat`` takes it."""
        return [dict(message) for message in self._so_far()]

    def say(self, text: str, **options: Any) -> Result:
        """Answer the user's next message; options and errors as for ``Model.chat``."""
        for event in self.stream(text, **options):
            if isinstance(event, Done):
                return event.result
        raise AssertionError("a generation always ends with Done")

    def stream(self, text: str, **options: Any) -> Events:
        """The same step by step. What cannot be served raises here, not at the first event."""
        message = {"role": "user", "content": text}
        return self._watched(message, self._begin(message, {**self._options, **options}))

    def undo(self) -> bool:
        """Take back the last turn, question and answer; False when there is none."""
        if not self._turns:
            return False
        self._turns.pop()
        return True

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self._turns.clear()
        self.num_dropped = 0

    def _so_far(self) -> list[Mapping[str, str]]:
        return self._system + [message for turn in self._turns for message in turn]

    def _begin(self, message: Mapping[str, str], options: dict[str, Any]) -> Events:
        started_ns, first = time.monotonic_ns(), 0
        while True:
            kept = self._turns[first:]
            messages = self._system + [said for turn in kept for said in turn] + [message]
            try:
                events = self._ask(messages, self._kept, options, started_ns)
            except ContextLengthError as error:
                if first == len(self._turns):
                    raise
                if not self._drops:
                    raise ContextLengthError(error.what, hint=_FULL_HINT) from None
                first += 1
                continue
            del self._turns[:first]
            self.num_dropped += first
            return events

    def _watched(self, message: Mapping[str, str], events: Events) -> Events:
        for event in events:
            if isinstance(event, Done) and (event.result.text or event.result.complete):
                answer = {"role": "assistant", "content": event.result.text or ""}
                self._turns.append((message, answer))
            yield event

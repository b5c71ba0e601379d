"""A generation in a thread of its own, so that drawing and signals never hold it up."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from edge.result import Commit, Draft

if TYPE_CHECKING:
    from edge import CancelFlag
    from edge.result import Done, Result

FRAME_SECONDS = 1 / 15


class GenerationThread(threading.Thread):
    """Consumes events: keeps the newest draft, every committed text, and the result.

    As a context it starts the thread, and cancels and joins it at the end: no thread may be
    inside native code when the process ends.
    """

    def __init__(self, events: Iterable[Draft | Commit | Done], cancel: CancelFlag) -> None:
        super().__init__(name="generation", daemon=True)
        self._events = events
        self._cancel = cancel
        self._newest_draft: Draft | None = None
        self._texts: deque[str] = deque()
        self._ended = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> GenerationThread:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cancel.set()
        self.join()

    def run(self) -> None:
        """Take events until there are none."""
        try:
            for event in self._events:
                self._take(event)
        except BaseException as error:  # raised again by result(), in the main thread
            self._error = error
        finally:
            self._ended.set()

    def _take(self, event: Draft | Commit | Done) -> None:
        if isinstance(event, Draft):
            self._newest_draft = event
        elif isinstance(event, Commit):
            self._texts.append(event.text or "")
        else:
            self._result = event.result

    def watch(
        self,
        show: Callable[[Draft], None] | None = None,
        write: Callable[[str], None] | None = None,
    ) -> None:
        """Return when the generation has ended or is cancelled.

        Meanwhile ``show`` gets the newest draft and ``write`` the texts committed since, both
        at most 15 times a second.
        """
        shown: Draft | None = None
        while not self._ended.wait(FRAME_SECONDS) and not self._cancel.is_set():
            draft = self._newest_draft
            if show and draft is not None and draft is not shown:
                show(draft)
                shown = draft
            if write and self._texts:
                write("".join(self._texts.popleft() for _ in range(len(self._texts))))

    def result(self) -> Result:
        """Return the result of an ended generation; raises what the generation raised."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise RuntimeError("the generation ended without a result")
        return self._result


@contextmanager
def ctrl_c_sets(cancel: CancelFlag, *, kills: bool = True) -> Iterator[None]:
    """Let Ctrl-C set ``cancel`` instead of raising; a second one ``kills``, or does no more."""
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield  # ignored, as shells ask of jobs in the background, or not ours to handle
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        cancel.set()
        if kills:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)

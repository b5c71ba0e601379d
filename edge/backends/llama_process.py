"""Runs forwards in llama.cpp, one at a time: started by ``edge.backends.llama_peer``.

A process of its own, because llama.cpp ends its process when something is wrong, and so that the
threads and the memory of the two engines stay apart. Reads a JSON object per line from stdin and
answers each with one on stdout: first ``path`` (where to import from) and ``Llama``'s arguments,
then either ``store`` (ids) or ``step`` (ids), ``head_rows`` and ``threads``. What cannot be done is
answered with ``refused``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TextIO

_STORED_AT_ONCE = 512
_ERROR = 4  # of ggml_log_level
_BEFORE_HEAD = b"result_norm"  # llama.cpp's name of what enters the head
_LOOKS = 20  # at most, at whether the threads still spin
_LOOK_S = 0.01  # a system may count processor time in ticks that long


class Refused(Exception):
    """llama.cpp cannot do what is asked of it."""


class Llama:
    """One model file in llama.cpp, by the low-level binding ``library``.

    Room for ``capacity`` positions and ``rows`` at once; what is stored is computed by ``threads``;
    ``by_part`` times a step's head too.
    """

    def __init__(
        self,
        library: Any,
        file: str,
        *,
        capacity: int,
        rows: int,
        threads: int,
        by_part: bool = False,
    ) -> None:
        self._library = library
        self._errors: list[str] = []
        self._held = [library.llama_log_callback(self._log)]  # what C calls must stay alive
        library.llama_log_set(self._held[0], ctypes.c_void_p())
        library.llama_backend_init()
        self._model = self._load(file)
        self._head_began = 0.0
        self._at_once = max(rows, min(capacity, _STORED_AT_ONCE))
        self._context = self._new_context(capacity, threads, by_part)
        self._batch = library.llama_batch_init(self._at_once, 0, 1)
        self._memory = library.llama_get_memory(self._context)  # None where nothing is cached
        self._stored: list[int] = []

    def close(self) -> None:
        """Free it all."""
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)
        self._library.llama_log_set(self._library.llama_log_callback(), ctypes.c_void_p())

    def store(self, ids: Sequence[int]) -> None:
        """Have keys and values of ``ids`` cached and of nothing else, each seeing those before."""
        common = _common_length(self._stored, ids)
        self._forget_after(common)
        self._library.llama_set_causal_attn(self._context, True)
        for first in range(common, len(ids), self._at_once):
            self._decode(ids[first : first + self._at_once], first, head_rows=0)
        self._stored = list(ids)

    def step(self, ids: Sequence[int], head_rows: int, threads: int) -> dict[str, float | None]:
        """Time a forward of ``ids`` behind what is cached, each seeing all."""
        self._forget_after(len(self._stored))
        self._library.llama_set_n_threads(self._context, threads, threads)
        self._library.llama_set_causal_attn(self._context, False)
        self._head_began = 0.0
        began, ended = self._decode(ids, len(self._stored), head_rows)
        head_ms = 1e3 * (ended - self._head_began) if self._head_began else None
        return {"step_ms": 1e3 * (ended - began), "head_ms": head_ms}

    def logits(self, row: int) -> list[float] | None:
        """Those of a row of the last step, None where they were not asked for."""
        values = self._library.llama_get_logits_ith(self._context, row)
        vocabulary = self._library.llama_model_get_vocab(self._model)
        return values[: self._library.llama_vocab_n_tokens(vocabulary)] if values else None

    def _load(self, file: str) -> Any:
        settings = self._library.llama_model_default_params()
        settings.n_gpu_layers = 0
        model = self._library.llama_model_load_from_file(os.fsencode(file), settings)
        if not model:
            raise Refused(f"it cannot load the file: {self._complaint}")
        return model

    def _new_context(self, capacity: int, threads: int, by_part: bool) -> Any:
        settings = self._library.llama_context_default_params()
        settings.n_ctx = capacity
        settings.n_threads = settings.n_threads_batch = threads
        settings.n_batch = settings.n_ubatch = self._at_once
        if by_part:
            self._held.append(self._when_head_begins())
            settings.cb_eval = self._held[-1]
        context = self._library.llama_init_from_model(self._model, settings)
        if not context:
            raise Refused(f"it has no room for {capacity} positions: {self._complaint}")
        return context

    def _when_head_begins(self) -> Any:
        """What llama.cpp asks of each tensor whether it matters, and calls when that is there."""
        name_of = self._library.llama_cpp._lib.ggml_get_name
        name_of.argtypes, name_of.restype = [ctypes.c_void_p], ctypes.c_char_p

        def look(tensor: int, asks: bool, _data: Any) -> bool:
            if asks:
                return bool(name_of(tensor) == _BEFORE_HEAD)
            self._head_began = time.perf_counter()
            return True

        return self._library.ggml_backend_sched_eval_callback(look)

    def _forget_after(self, length: int) -> None:
        if self._memory:
            self._library.llama_memory_seq_rm(self._memory, 0, length, -1)

    def _decode(self, ids: Sequence[int], first: int, head_rows: int) -> tuple[float, float]:
        """Begin and end in seconds."""
        self._fill(ids, first, head_rows)
        self._errors.clear()
        began = time.perf_counter()
        failed = self._library.llama_decode(self._context, self._batch)
        self._library.llama_synchronize(self._context)
        ended = time.perf_counter()
        if failed:
            raise Refused(f"llama_decode gives {failed}: {self._complaint}")
        return began, ended

    def _fill(self, ids: Sequence[int], first: int, head_rows: int) -> None:
        batch = self._batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, first + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i < head_rows

    def _log(self, level: int, text: bytes, _data: Any) -> None:
        if level == _ERROR:
            self._errors.append(text.decode(errors="replace").strip())

    @property
    def _complaint(self) -> str:
        """The first error, since those that follow tell less."""
        return self._errors[0] if self._errors else "no message"


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for both, and needs no traceback
    answers = _private_stdout()
    requests = _requests()
    job = next(requests)
    sys.path[:] = job.pop("path")
    import llama_cpp

    try:
        llama = Llama(llama_cpp, **job)
        system = llama_cpp.llama_print_system_info().decode(errors="replace").strip(" |")
        _send(answers, {"version": llama_cpp.__version__, "system": system})
        for request in requests:
            _send(answers, _answer(llama, request))
    except Refused as refusal:
        _send(answers, {"refused": str(refusal)})


def _answer(llama: Llama, request: dict[str, Any]) -> dict[str, Any]:
    if "store" in request:
        llama.store(request["store"])
        return {}
    times = llama.step(request["step"], request["head_rows"], request["threads"])
    _let_threads_sleep()
    return times


def _let_threads_sleep() -> None:
    """Wait until this process is idle: OpenMP's threads spin for milliseconds after their work."""
    for _ in range(_LOOKS):
        before = time.process_time()
        time.sleep(_LOOK_S)
        if time.process_time() - before < _LOOK_S / 10:
            return


def _private_stdout() -> TextIO:
    """What nobody else in this process writes to; their stdout is stderr from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _requests() -> Iterator[dict[str, Any]]:
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        yield json.loads(lines.get())


def _read(lines: SimpleQueue[str]) -> None:
    """Hand on what comes; end with whoever asks, even amid a forward."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _send(answers: TextIO, fields: dict[str, Any]) -> None:
    answers.write(json.dumps(fields) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()

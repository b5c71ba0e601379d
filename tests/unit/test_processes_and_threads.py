"""One model in several threads, in a forked process, at the end of the interpreter."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import psutil
import pytest

import edge

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
OTHER = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
PATIENCE_SECONDS = 20

# Python 3.12 and later warn of any fork while threads run, which is what these tests do.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def model() -> Iterator[edge.Model]:
    with edge.load("sudoku", threads=2) as model:
        yield model


def in_a_fork(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a forked child."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child(out: Connection) -> None:
        out.send(work())

    process = context.Process(target=child, args=(sender,))
    process.start()
    try:
        assert receiver.poll(PATIENCE_SECONDS), "the child hangs"
        answer = receiver.recv()
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
    return answer


@forks
@pytest.mark.parametrize("used_before", [True, False])
def test_a_forked_child_generates(model: edge.Model, used_before: bool) -> None:
    if used_before:
        model.generate(OTHER)
    answer = in_a_fork(lambda: model.generate(PUZZLE).text)
    assert answer == model.generate(PUZZLE).text


@forks
def test_a_forked_child_has_threads_of_its_own(model: edge.Model) -> None:
    def threads_after_a_generation() -> int:
        model.generate(PUZZLE, steps=3)
        return psutil.Process().num_threads()

    assert in_a_fork(threads_after_a_generation) == model.threads


@forks
def test_a_forked_child_closes_its_copy_only(model: edge.Model) -> None:
    model.generate(PUZZLE)
    assert in_a_fork(lambda: model.close() or "closed") == "closed"
    assert model.generate(PUZZLE).complete


@forks
def test_a_fork_while_another_thread_generates(model: edge.Model) -> None:
    wanted, stop = model.generate(PUZZLE, steps=3).text, threading.Event()

    def work() -> None:
        while not stop.is_set():
            model.generate(OTHER)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):
            assert in_a_fork(lambda: model.generate(PUZZLE, steps=3).text) == wanted
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)


@forks
def test_a_fork_of_a_fork(model: edge.Model) -> None:
    def grandchild() -> str | None:
        model.generate(OTHER)
        return str(in_a_fork(lambda: model.generate(PUZZLE).text))

    assert in_a_fork(grandchild) == model.generate(PUZZLE).text


def test_two_threads_get_the_serial_answers(model: edge.Model) -> None:
    options = [{"seed": seed, "temperature": 0.7, "steps": 9} for seed in range(4)]
    puzzles = [PUZZLE, OTHER] * 2
    serial = [model.generate(p, **o).ids for p, o in zip(puzzles, options, strict=True)]
    assert len({tuple(ids) for ids in serial}) > 1
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            together = pool.map(lambda p, o: model.generate(p, **o).ids, puzzles, options)
            assert list(together) == serial


def test_logits_and_generation_side_by_side(model: edge.Model) -> None:
    ids = [1, 2, 3] * 27
    wanted, answer = model.logits(ids), model.generate(PUZZLE, steps=9).ids
    with ThreadPoolExecutor(2) as pool:
        many_logits = pool.submit(lambda: [model.logits(ids) for _ in range(20)])
        many_answers = pool.submit(lambda: [model.generate(PUZZLE, steps=9).ids for _ in range(4)])
        assert all((logits == wanted).all() for logits in many_logits.result())
        assert many_answers.result() == [answer] * 4


@pytest.mark.parametrize("after_seconds", [0.0, 0.001, 0.003, 0.01, 0.03])
def test_close_while_another_thread_generates(after_seconds: float) -> None:
    with edge.load("sudoku", threads=2) as model:
        wanted = model.generate(PUZZLE).ids

        def work() -> list[int] | str:
            try:
                return model.generate(PUZZLE).ids
            except edge.ModelClosedError:
                return "closed"

        with ThreadPoolExecutor(2) as pool:
            outcomes = [pool.submit(work) for _ in range(4)]
            time.sleep(after_seconds)
            model.close()
            with pytest.raises(edge.ModelClosedError):
                model.generate(PUZZLE)
            for outcome in outcomes:
                assert outcome.result(PATIENCE_SECONDS) in (wanted, "closed")


def test_close_amid_a_stream(model: edge.Model) -> None:
    events = model.stream(PUZZLE)
    next(events)
    model.close()
    with pytest.raises(edge.ModelClosedError):
        list(events)


def test_a_stream_abandoned_half_way(model: edge.Model) -> None:
    wanted = model.generate(PUZZLE).ids
    events = model.stream(OTHER)
    next(events)
    del events
    gc.collect()
    assert model.generate(PUZZLE).ids == wanted


def test_two_streams_taking_turns(model: edge.Model) -> None:
    wanted = [model.generate(puzzle, steps=9) for puzzle in (PUZZLE, OTHER)]
    streams = [model.stream(puzzle, steps=9) for puzzle in (PUZZLE, OTHER)]
    finished: dict[int, edge.Result] = {}
    while len(finished) < 2:
        for i, events in enumerate(streams):
            for event in events:
                if isinstance(event, edge.Done):
                    finished[i] = event.result
                break
    assert [finished[i].ids for i in range(2)] == [result.ids for result in wanted]


def test_a_stream_may_be_finished_by_another_thread(model: edge.Model) -> None:
    events = model.stream(PUZZLE)
    next(events)
    rest: list[Any] = []
    thread = threading.Thread(target=lambda: rest.extend(events))
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert isinstance(rest[-1], edge.Done)
    assert rest[-1].result.ids == model.generate(PUZZLE).ids


EXITS = {
    "after a generation": "model.generate(puzzle)",
    "without a generation": "",
    "amid a stream": "events = model.stream(puzzle); next(events)",
    "by an exception": "model.generate(puzzle); events = model.stream(puzzle); raise SystemExit(0)",
    "while a daemon thread generates": """
import threading, time
def work():
    while True:
        model.generate(puzzle)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
""",
}


@pytest.mark.parametrize("way", EXITS)
def test_the_interpreter_ends(way: str) -> None:
    program = f"import edge; puzzle = {PUZZLE!r}; model = edge.load('sudoku', threads=2)\n"
    ended = subprocess.run(
        [sys.executable, "-c", program + EXITS[way]],
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        text=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

"""``edge.versus`` and ``edge.backends.llama_peer``, with a process that only speaks like it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from gguf import GGUFReader

from edge import bench, config, errors, versus
from edge.backends import llama_peer, llama_process
from edge.backends.llama_peer import LlamaPeer, thread_counts
from edge.backends.native import NativeBackend, StepTimes
from edge.bench import Subject, plan_for
from edge.info import inspect
from edge.shapes import Shape
from edge.versus import Peer, measure_pairs

TINY = Shape("edge-qwen3", 64, 3, 4, 2, 16, 96, 100, 128)
FAKE = Path(__file__).parents[1] / "support/fake_llama.py"
PEAK: Any = SimpleNamespace(int8_gops=100.0, float_gops=50.0, bf16_gops=50.0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that gets the requests to ``fake_llama.py``, which is started for llama.cpp."""
    log = tmp_path / "requests"
    monkeypatch.setattr(llama_peer, "_PROGRAM", FAKE)
    monkeypatch.setattr(llama_peer, "find_spec", lambda _: object())
    monkeypatch.setenv("FAKE_LLAMA_LOG", os.fspath(log))
    return log


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def subject(events: list[str]) -> Subject:
    """Ours: steps take 4 ms, half of them its head's."""

    class Ours:
        threads, isa = 2, "clockwork"

        def new_cache(self, capacity: int) -> object:
            return capacity

        def forward(self, request: Any) -> None:
            events.append("store" if request.store else "warm up")

        def time_step(self, _: Any) -> StepTimes:
            events.append("ours")
            return StepTimes(1.0, 0.5, 2.0, 0.25, 0.25)

    sizes = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__ if name != "tied"}
    more = {
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "rope_pairs": "halves",
        "rotary_dims": TINY.head_dim,
    }
    denoiser = config.DenoiserConfig(**sizes, **more, qkv_bias=False, qk_norm=True)
    return Subject("q4_0", cast("NativeBackend", Ours()), denoiser, 3)


def peer_of(events: list[str], times: Iterator[float], scale: float = 1) -> Peer:
    """Theirs, taking these times."""

    class Theirs:
        def store(self, ids: Any) -> None:
            events.append(f"store {len(ids)}")

        def step(self, ids: Any, head_rows: int, threads: int) -> llama_peer.PeerTimes:
            events.append(f"theirs {len(ids)} {head_rows} {threads}")
            return llama_peer.PeerTimes(next(times), 2.0)

    return Peer(cast("LlamaPeer", Theirs()), "q4_0", scale)


def forever(*times: float) -> Iterator[float]:
    while True:
        yield from times


def test_steps_take_turns_and_so_does_who_begins(subject: Subject, events: list[str]) -> None:
    plan = plan_for(128, [8], [16], head_rows=2, repeats=3)
    ((_, comparison),) = measure_pairs(subject, peer_of(events, forever(9.0)), plan, PEAK)
    assert comparison.llama_threads == 1
    trials = ["theirs 8 2 1"] * (1 + versus.TRIALS) + ["theirs 8 2 2"] * (1 + versus.TRIALS)
    assert events[: 2 + len(trials)] == ["store", "store 16", *trials]
    theirs, ours = "theirs 8 2 1", "ours"
    turns = [ours, theirs, theirs, ours, ours, theirs]
    assert events[2 + len(trials) :] == ["warm up"] * bench.WARM_UPS + turns


def test_the_ratio_is_that_of_pairs(subject: Subject, events: list[str]) -> None:
    slow, fast = [9.0] * (1 + versus.TRIALS), [7.0] * (1 + versus.TRIALS)
    times = iter([*slow, *fast, 4.0, 8.0, 40.0])
    plan = plan_for(128, [8], [0], repeats=3)
    ((figures, comparison),) = measure_pairs(subject, peer_of(events, times), plan, PEAK)
    assert figures.step_ms == 4.0
    assert (comparison.llama_threads, comparison.llama_type) == (2, "q4_0")
    assert (comparison.llama_ms, comparison.llama_over_ours) == (8.0, 2.0)
    assert comparison.llama_ms_p95 == pytest.approx(36.8)


def test_layers_are_scaled_and_the_head_is_not(subject: Subject, events: list[str]) -> None:
    plan = plan_for(128, [8], [0], repeats=1)
    thin = replace(subject, num_layers=12)
    peer = peer_of(events, forever(5.0), scale=4)
    ((figures, comparison),) = measure_pairs(thin, peer, plan, PEAK)
    assert (figures.step_ms, comparison.llama_ms) == (2 + 4 * 2, 2 + 4 * 3)


def test_a_head_that_was_not_timed_cannot_be_scaled() -> None:
    with pytest.raises(errors.UnsupportedModelError, match="compare without --layers"):
        Peer(cast("LlamaPeer", None), "f32", 2)._scaled(llama_peer.PeerTimes(1.0, None))


def test_the_same_weights_in_a_file_that_llama_cpp_knows(tmp_path: Path) -> None:
    plan, read = plan_for(128, [1], [0]), {}
    for architecture, network in (("edge-qwen3", "qwen3"), ("dream", "qwen2"), ("llada", "llama")):
        shape = replace(TINY, architecture=architecture)
        read[network] = written(shape, "q8_0", plan, tmp_path)
        ours = tmp_path / f"{architecture}.gguf"
        bench.write_random_model(ours, shape, "q8_0")
        same = {t.name: t.data.tobytes() for t in GGUFReader(ours).tensors}
        assert {t.name: t.data.tobytes() for t in read[network].tensors} == same
        assert read[network].fields["general.architecture"].contents() == network
        assert read[network].fields[f"{network}.vocab_size"].contents() == 100
        assert read[network].fields[f"{network}.block_count"].contents() == 3
        assert read[network].fields["tokenizer.ggml.model"].contents() == "none"
        assert f"{architecture}.block_count" not in read[network].fields
    names = {t.name for t in read["qwen2"].tensors}
    assert {"blk.0.attn_q.bias", "output.weight"} <= names


@pytest.mark.parametrize(
    ("ours", "theirs"), [("int8", "Q8_0"), ("int4", "Q4_0"), ("bf16", "BF16"), ("q4_0", "Q4_0")]
)
def test_the_nearest_type_of_theirs(ours: str, theirs: str, tmp_path: Path) -> None:
    tensors = written(TINY, ours, plan_for(128, [1], [0]), tmp_path).tensors
    assert {t.tensor_type.name for t in tensors} == {"F32", theirs}


def written(shape: Shape, kind: str, plan: bench.Plan, folder: Path) -> GGUFReader:
    """The file that llama.cpp would be given."""
    kept = folder / f"kept-{shape.architecture}-{kind}.gguf"

    def keep(path: Path, *_: Any, **__: Any) -> Any:
        os.link(path, kept)
        return SimpleNamespace(close=lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.tempfile, "tempdir", os.fspath(folder))
        patch.setattr(versus, "_loaded", keep)
        with versus.opened_shape(shape, kind, plan, threads=1):
            pass
    return GGUFReader(kept)


def test_threads_wait_as_suits_the_machine(fake: Path) -> None:
    plan = plan_for(128, [4], [8])
    with versus.opened_shape(TINY, "int4", plan, threads=2) as peer:
        assert peer.about == {
            "llama_version": "0.0",
            "llama_system": "CPU : FAKE = 1",
            "llama_wait_policy": "default",
        }
        assert (peer.type, peer.scale) == ("q4_0", 1)
        peer.llama.store(np.arange(8, dtype=np.int32))
        assert peer.llama.step(np.arange(4, dtype=np.int32), 3, 2).step_ms == 20
    requests = [json.loads(line) for line in fake.read_text().splitlines()]
    assert requests[-2:] == [
        {"store": [*range(8)]},
        {"step": [*range(4)], "head_rows": 3, "threads": 2},
    ]


def test_a_thinner_shape_asks_for_the_head_s_time(fake: Path) -> None:
    plan = plan_for(128, [4], [0])
    with versus.opened_shape(TINY, "f16", plan, layers=1, threads=1) as peer:
        assert peer.scale == 3
        assert peer.llama.step(np.arange(4, dtype=np.int32), 4, 1).head_ms == 1
    assert fake.exists()


@pytest.mark.parametrize(
    ("fate", "error", "problem"),
    [
        ("abort", errors.EdgeError, r"^llama.cpp ended with SIGABRT: ggml.c:1: GGML_ASSERT\(soun"),
        ("refuse", errors.UnsupportedModelError, "^llama.cpp: it cannot load the file: no$"),
    ],
)
def test_what_goes_wrong_there_is_one_line(
    fate: str, error: type[Exception], problem: str, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LLAMA", fate)
    with (
        pytest.raises(error, match=problem),
        closing(LlamaPeer("model.gguf", capacity=8, rows=8, threads=1)) as peer,
    ):
        peer.step(np.arange(4, dtype=np.int32), 4, 1)
    assert fake.exists() == (fate == "abort")


def test_closing_ends_the_process(fake: Path) -> None:
    peer = LlamaPeer("model.gguf", capacity=8, rows=8, threads=1)
    process = peer._process
    assert process.poll() is None
    peer.close()
    assert process.poll() is not None
    peer.close()
    assert not fake.exists()


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Even amid work: here it never comes back from an import."""
    (tmp_path / "llama_cpp.py").write_text("import time\nprint('in', flush=True)\ntime.sleep(60)\n")
    job = {"path": [os.fspath(tmp_path)], "file": "", "capacity": 1, "rows": 1, "threads": 1}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", llama_process.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(json.dumps(job).encode() + b"\n")
    process.stdin.flush()
    assert process.stderr.readline() == b"in\n"  # what others print is not on stdout
    assert process.communicate(timeout=20) == (b"", b"")


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_peer, "find_spec", lambda _: None)
    with pytest.raises(errors.RequestError, match=r"pip install 'edge-denoise\[llama\]'"):
        LlamaPeer("model.gguf", capacity=1, rows=1, threads=1)


def test_thread_counts_worth_trying() -> None:
    assert [*thread_counts(1)] == [1]
    assert [*thread_counts(3)] == [1, 2, 3]
    assert [*thread_counts(12)] == [1, 2, 4, 8, 12]
    assert [*thread_counts(16)] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("type", "options", "error", "problem"),
    [
        ("int4", {}, errors.UnsupportedModelError, "no weights of type int4 .* --shape"),
        ("f32", {"contexts": [8]}, errors.RequestError, "caches nothing for 'llada' .* --context"),
        ("f32", {"head_rows": 1}, errors.RequestError, "head of all rows .* --head-rows"),
    ],
)
def test_files_that_llama_cpp_cannot_compare(
    type: str,
    options: dict[str, Any],
    error: type[Exception],
    problem: str,
    golden: Callable[[str], Path],
    converted: Callable[..., Path],
) -> None:
    info = inspect(converted(golden("llada"), type))
    versus.check_file(inspect(converted(golden("llada"))), plan_for(32, [4], [0]))
    with pytest.raises(error, match=problem):
        versus.check_file(info, plan_for(32, [4], **{"contexts": [0], **options}))


def test_an_architecture_of_ours_alone() -> None:
    problem = "llama.cpp has no architecture 'edge-llama'"
    with pytest.raises(errors.UnsupportedModelError, match=problem):
        versus.check_file(inspect("sudoku"), plan_for(81, [4], [0]))

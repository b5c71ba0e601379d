"""The same denoising steps in llama.cpp, pair by pair with ours.

llama.cpp has no denoiser with a key/value cache, but the families' networks: a file that names
such a network runs there behind a cached prefix, once attention is told not to be causal. So
random weights of a shape are written a second time under that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from statistics import median

import numpy as np

from edge._native import PeakRates
from edge.backends.llama_peer import WAIT_POLICIES, LlamaPeer, PeerTimes, thread_counts
from edge.backends.native import StepTimes
from edge.bench import (
    Measurement,
    Plan,
    Step,
    Subject,
    figures,
    random_file,
    steps,
    timed,
    warm_up,
)
from edge.errors import RequestError, UnsupportedModelError
from edge.formats import keys
from edge.formats.groups import OWN_TYPES
from edge.info import ModelInfo
from edge.shapes import Shape, thinner

TRIALS = 3  # steps that choose llama.cpp's number of threads, and how they wait

# Our architectures and the same networks in llama.cpp, where a cache goes with the name. Rows of
# q and k stand in another order in edge-llama, which random weights do not notice.
_NETWORKS = {
    "llada": "llama",
    "dream": "qwen2",
    "edge-llama": "llama",
    "edge-qwen2": "qwen2",
    "edge-qwen3": "qwen3",
    "edge-qwen3moe": "qwen3moe",
}
_KNOWN_THERE = ("llada", "dream", "llada-moe", "rnd1")
_NEAREST_TYPES = {"int8": "q8_0", "int4": "q4_0"}
_NO_TOKENIZER = "none"


@dataclass(frozen=True)
class Peer:
    """A denoiser in llama.cpp, how its weights are stored, and layers asked for by loaded."""

    llama: LlamaPeer
    type: str
    scale: float

    @property
    def about(self) -> dict[str, str]:
        """Which llama.cpp that is, and how its threads wait."""
        return {
            "llama_version": self.llama.version,
            "llama_system": self.llama.system,
            "llama_wait_policy": self.llama.wait_policy,
        }

    def step_ms(self, step: Step, threads: int) -> float:
        """Run a step; its time is that of all layers."""
        times = self.llama.step(step.request.ids, step.head_rows, threads)
        return times.step_ms if self.scale == 1 else self._scaled(times)

    def _scaled(self, times: PeerTimes) -> float:
        if times.head_ms is None:
            problem = "llama.cpp does not tell how long its head takes"
            raise UnsupportedModelError(problem, hint="compare without --layers")
        return (times.step_ms - times.head_ms) * self.scale + times.head_ms


@dataclass(frozen=True)
class Comparison:
    """A step in llama.cpp, beside the ``Measurement`` of ours.

    The two took turns. ``llama_over_ours`` is the median over the pairs of its time by ours;
    ``llama_threads`` is the number of threads with which it was fastest.
    """

    llama_ms: float
    llama_ms_p95: float
    llama_threads: int
    llama_type: str
    llama_over_ours: float


def check_file(info: ModelInfo, plan: Plan) -> None:
    """Raise UnsupportedModelError or RequestError where llama.cpp cannot do the same."""
    own = [kind for kind in info.types if kind in OWN_TYPES]
    if info.architecture not in _KNOWN_THERE:
        problem = f"llama.cpp has no architecture {info.architecture!r}"
    elif own:
        problem = f"llama.cpp has no weights of type {own[0]}"
    elif max(plan.contexts) > 0:
        problem = f"llama.cpp caches nothing for {info.architecture!r}"
        raise RequestError(problem, path=info.path, hint="leave out --context, or use --shape")
    elif plan.head_rows is not None:
        problem = f"llama.cpp evaluates the head of all rows for {info.architecture!r}"
        raise RequestError(problem, path=info.path, hint="leave out --head-rows, or use --shape")
    else:
        return
    raise UnsupportedModelError(problem, path=info.path, hint="compare random weights: --shape")


@contextmanager
def opened_file(info: ModelInfo, plan: Plan, *, threads: int) -> Iterator[Peer]:
    """Have llama.cpp load the very file. Raises like ``check_file`` and ``LlamaPeer``."""
    check_file(info, plan)
    with closing(_loaded(info.path, plan, threads)) as llama:
        yield Peer(llama, info.main_type, 1)


@contextmanager
def opened_shape(
    shape: Shape,
    kind: str,
    plan: Plan,
    *,
    layers: int | None = None,
    threads: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Peer]:
    """Have llama.cpp load ``shape`` with the weights that ours has, or the nearest type's.

    Raises like ``bench.opened_shape`` and ``LlamaPeer``.
    """
    if shape.architecture not in _NETWORKS:
        problem = f"llama.cpp has no network like {shape.architecture} that keeps a cache"
        raise UnsupportedModelError(problem, hint="leave out --vs-llama")
    kind = _NEAREST_TYPES.get(kind, kind)
    thin = thinner(shape, layers)
    scale = shape.num_layers / thin.num_layers
    more: dict[str, int | float | str] = {keys.VOCAB_SIZE: shape.vocab_size}
    more[keys.TOKENIZER_MODEL] = _NO_TOKENIZER
    with random_file(thin, kind, advance, more, _NETWORKS[shape.architecture]) as path:
        llama = _loaded(path, plan, threads, by_part=scale != 1)
    with closing(llama):
        yield Peer(llama, kind, scale)


def _loaded(
    path: str | PathLike[str], plan: Plan, threads: int, *, by_part: bool = False
) -> LlamaPeer:
    """llama.cpp, its threads waiting as suits it best here and now."""
    rows = max(plan.rows)
    opened = partial(
        LlamaPeer, path, capacity=plan.capacity, rows=rows, threads=threads, by_part=by_part
    )

    def trial_ms(policy: str) -> float:
        with closing(opened(wait_policy=policy)) as llama:
            ids = np.zeros(rows, np.int32)
            times = [llama.step(ids, rows, threads).step_ms for _ in range(1 + TRIALS)]
        return median(times[1:])

    return opened(wait_policy=min(WAIT_POLICIES, key=trial_ms))


def measure_pairs(
    subject: Subject, peer: Peer, plan: Plan, peak: PeakRates
) -> Iterator[tuple[Measurement, Comparison]]:
    """Yield as ``bench.measure`` does, with steps of both engines in turns."""
    for step in steps(subject, plan):
        peer.llama.store(step.prefix)
        threads = _fastest(peer, step, subject.backend.threads)
        warm_up(subject, step)
        ours, theirs = [], []
        for number in range(plan.repeats):
            mine, its = _pair(subject, peer, step, threads, its_turn=number % 2 == 1)
            ours.append(mine)
            theirs.append(its)
        yield figures(subject, peak, ours, step), _comparison(peer, threads, ours, theirs)


def _fastest(peer: Peer, step: Step, most: int) -> int:
    """How many threads llama.cpp is fastest with, on a few steps each; warms it up."""
    medians = {}
    for threads in thread_counts(most):
        peer.step_ms(step, threads)
        medians[threads] = median(peer.step_ms(step, threads) for _ in range(TRIALS))
    return min(medians, key=medians.__getitem__)


def _pair(
    subject: Subject, peer: Peer, step: Step, threads: int, *, its_turn: bool
) -> tuple[StepTimes, float]:
    """A step of each, llama.cpp's first if it is its turn."""
    if its_turn:
        its = peer.step_ms(step, threads)
        return timed(subject, step), its
    return timed(subject, step), peer.step_ms(step, threads)


def _comparison(peer: Peer, threads: int, ours: list[StepTimes], theirs: list[float]) -> Comparison:
    pairs = zip(ours, theirs, strict=True)
    return Comparison(
        llama_ms=median(theirs),
        llama_ms_p95=float(np.percentile(theirs, 95)),
        llama_threads=threads,
        llama_type=peer.type,
        llama_over_ours=median(its / mine.step_ms for mine, its in pairs),
    )

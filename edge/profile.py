"""The timing profile of a model on this device: measured once, kept in the cache folder.

A profile is used only if everything its times depend on is as it was: the shapes and storage
types of the file's tensors (the weights' values do not matter to time), processor, threads,
instruction set, backend, activations, key/value format and the compiled engine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edge import _native
from edge.backends.base import Backend, Cache, Draws, StepRequest
from edge.cache_folder import cache_folder
from edge.config import DenoiserConfig, ModelConfig
from edge.costs import KNOTS, Knots, StepCosts, guess, rising
from edge.formats.atomic_file import replacing

SCHEMA = 1
SECONDS = 2.5  # that a calibration of a small model may take in all

_CONTEXT = 1024  # the second of the two contexts, less where the model's is shorter
_ROWS = 32  # with which the context's share is measured
_REPEATS = 5
_LARGEST_FILE = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What the times of a profile depend on."""

    model: str  # hash of its shapes and types
    cpu: str
    threads: int
    isa: str
    backend: str
    activations: str
    kv: str
    engine: str  # hash of the extension

    @property
    def file_name(self) -> str:
        """Of the profile in its folder."""
        text = json.dumps(vars(self), sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def hash_of_shapes(config: DenoiserConfig, tensors: Mapping[str, _native.TensorInfo]) -> str:
    """Hash of sizes and storage types, cheap however large the model is."""
    listed = [(name, info.type, info.shape) for name, info in sorted(tensors.items())]
    return hashlib.sha256(repr((config, listed)).encode()).hexdigest()


def engine_hash() -> str:
    """Hash of the compiled engine."""
    return hashlib.sha256(Path(_native.__file__).read_bytes()).hexdigest()


def folder() -> Path:
    """Where profiles are kept."""
    return cache_folder() / "profiles"


def read(identity: Identity) -> StepCosts | None:
    """Return the stored costs; None when there are none or they cannot be trusted."""
    path = folder() / identity.file_name
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large")
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
            raise ValueError("it has another schema")
        if stored.get("identity") != vars(identity):
            raise ValueError("it was measured elsewhere or for another model")
        return StepCosts.from_json(stored.get("costs"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as problem:
        _log.warning("the timing profile %s is ignored: %s", path, problem)
        return None


def write(identity: Identity, costs: StepCosts) -> Path:
    """Store the costs, replacing what was there whole; raises OSError."""
    path = folder() / identity.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, "identity": vars(identity), "costs": costs.to_json()}
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def calibrate(
    backend: Backend, config: ModelConfig, seconds: float = SECONDS, repeats: int = _REPEATS
) -> StepCosts:
    """Measure forwards; what does not fit into the time is extrapolated."""
    stopwatch = _Stopwatch(backend, config, time.monotonic() + seconds, repeats)
    body: list[tuple[int, float]] = []
    head: list[tuple[int, float]] = []
    for rows in KNOTS:
        if rows > config.denoiser.context_length or (len(body) > 1 and stopwatch.is_late(body)):
            break
        body_ns, head_ns = stopwatch.times(rows)
        body.append((rows, body_ns))
        if head_ns > 0:
            head.append((rows, head_ns))
    return StepCosts(
        body=rising(body),
        head=rising(head or [(1, 1.0)]),
        attention_ns=_attention(stopwatch, rising(body), config, backend.threads),
        source="calibration",
    )


def warm_up(backend: Backend, config: ModelConfig) -> None:
    """Run a forward of one block: a process's first is slower than all that follow."""
    diffusion, longest = config.diffusion, config.denoiser.context_length
    rows = min(diffusion.canvas_length or diffusion.block_length, longest)
    _Stopwatch(backend, config, 0.0, 1).time(np.arange(rows))


def _attention(stopwatch: _Stopwatch, body: Knots, config: ModelConfig, threads: int) -> float:
    """ns per row and key of the context; from the sizes where there is no time to measure it."""
    rows, body_ns = next((knot for knot in body if knot[0] >= _ROWS), body[-1])
    context = min(_CONTEXT, config.denoiser.context_length - rows)
    while context > rows and stopwatch.is_late([(context, body_ns * context / rows)]):
        context //= 2
    if context > rows:
        return max(0.0, stopwatch.times(rows, context)[0] - body_ns) / (rows * context)
    guessed = guess(config.denoiser, threads)
    return guessed.attention_ns * body_ns / guessed.predict(rows, 0, 0)


class _Stopwatch:
    """Times forwards of mask tokens until an instant."""

    def __init__(self, backend: Backend, config: ModelConfig, until: float, repeats: int) -> None:
        self._backend = backend
        self._token = config.diffusion.mask_token_id
        self._draws = Draws(config.num_tokens, forbidden=(self._token,))
        self._until = until
        self._repeats = repeats

    def is_late(self, knots: Knots) -> bool:
        """Whether two forwards of twice the last knot's time would end too late."""
        return time.monotonic() + 4 * knots[-1][1] / 1e9 > self._until

    def times(self, rows: int, context: int = 0) -> tuple[float, float]:
        """Median ns of body and head with every row asked for, after a forward to warm up."""
        cache = self._filled(context, context + rows) if context else None
        positions = np.arange(context, context + rows)
        turn_ends = (time.monotonic() + self._until) / 2
        self.time(positions, cache)
        measured = [self.time(positions, cache)]
        while len(measured) < self._repeats and time.monotonic() < turn_ends:
            measured.append(self.time(positions, cache))
        return median(m[0] for m in measured), median(m[1] for m in measured)

    def _filled(self, context: int, capacity: int) -> Cache:
        cache = self._backend.new_cache(capacity)
        for start in range(0, context, KNOTS[-1]):
            positions = np.arange(start, min(start + KNOTS[-1], context))
            self._backend.forward(self._request(positions, cache, store=True))
        return cache

    def time(self, positions: NDArray[np.intp], cache: Cache | None = None) -> tuple[float, float]:
        """Return ns of body and head of one forward."""
        begin = time.monotonic_ns()
        rows = self._backend.forward(self._request(positions, cache))
        spent = time.monotonic_ns() - begin
        head_ns = 0 if rows is None else rows.head_ns
        return spent - head_ns, head_ns

    def _request(
        self, positions: NDArray[np.intp], cache: Cache | None, *, store: bool = False
    ) -> StepRequest:
        head_rows = np.arange(0 if store else len(positions), dtype=np.int32)
        return StepRequest(
            ids=np.full(len(positions), self._token, np.int32),
            positions=positions.astype(np.int32),
            head_rows=head_rows,
            draws=self._draws,
            cache=cache,
            store=store,
        )

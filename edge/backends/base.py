"""What executes a forward: the one interface between Python's decisions and the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge._native import CancelFlag
from edge.canvas import RowStats

NO_ROWS = np.empty(0, np.int32)


@dataclass(frozen=True)
class Mask:
    """Which keys a token may see: ``full``, ``causal``, ``block`` or ``causal_context``.

    Blocks of ``block_length`` are counted from ``origin``; a causal context ends there.
    """

    kind: str = "full"
    block_length: int = 0
    origin: int = 0


@dataclass(frozen=True)
class Draws:
    """How candidates are drawn.

    ``number`` numbers the forward within its request, so that (seed, number, position, token)
    names the noise of one candidate. ``forbidden`` ids and ids from ``num_choices`` on are no
    candidates.
    """

    num_choices: int
    forbidden: tuple[int, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    number: int = 0


@dataclass(frozen=True)
class LogitBias:
    """Additions to single logits before anything else is done with them.

    ``starts`` [head rows + 1]: those of head row r are entries starts[r] to before starts[r + 1]
    of ``ids`` and ``values``.
    """

    starts: NDArray[np.int32]
    ids: NDArray[np.int32]
    values: NDArray[np.float32]


class Cache(Protocol):
    """Keys and values, held by the backend that made it."""

    def truncate(self, length: int) -> None:
        """Forget every position from ``length`` on."""

    def reserve(self, capacity: int) -> None:
        """Make room for positions below ``capacity``; what is stored stays."""


@dataclass(frozen=True)
class StepRequest:
    """One forward: which tokens are computed and what is asked of them.

    ``ids`` and ``positions`` are [active], positions ascending; ``head_rows`` are indices of the
    active tokens whose statistics are wanted, ``gated_rows`` of those that run with the model's
    adapter and see everything, whatever the mask. What ``cache`` holds of other positions is seen
    as well; with ``store`` the active tokens are added to it, or only the first ``num_stored``.
    ``branches`` (rows, seen) are the last rows: each sees what is cached, the first ``seen`` of the
    rows before all branches, and itself. ``guidance_ids`` [active] ask for
    classifier-free guidance of strength ``guidance_scale``. ``deadline_ns`` is on
    ``time.monotonic_ns``'s clock, 0 for none.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    head_rows: NDArray[np.int32]
    draws: Draws
    gated_rows: NDArray[np.int32] = field(default_factory=lambda: NO_ROWS)
    branches: Sequence[tuple[int, int]] = ()
    mask: Mask = field(default_factory=Mask)
    cache: Cache | None = None
    store: bool = False
    num_stored: int = 0
    bias: LogitBias | None = None
    guidance_ids: NDArray[np.int32] | None = None
    guidance_scale: float = 0.0
    cancel: CancelFlag | None = None
    deadline_ns: int = 0


class Backend(Protocol):
    """Runs one model. Calls from several threads are serialised."""

    @property
    def name(self) -> str:
        """The name in the registry."""

    @property
    def kv(self) -> str:
        """How keys and values are kept."""

    @property
    def isa(self) -> str:
        """The instruction set in use."""

    @property
    def threads(self) -> int:
        """The number of threads in use."""

    @property
    def stoppable(self) -> bool:
        """Whether a forward heeds its deadline while it runs, not only before it begins."""

    def new_cache(self, capacity: int) -> Cache:
        """Return an empty cache for positions below ``capacity``."""

    def forward(self, request: StepRequest) -> RowStats | None:
        """Return statistics of the head rows, None when cancelled or past the deadline.

        The rows' positions are those of the head rows. Raises NumericError naming the layer
        where numbers stopped being finite.
        """

    def logits(
        self, ids: NDArray[np.int32], mask: Mask, gated_rows: NDArray[np.int32] = NO_ROWS
    ) -> NDArray[np.float32]:
        """Return [ids, vocab] of one forward over the whole canvas, nothing cached."""

    def close(self) -> None:
        """Free the weights after the step in flight; later calls raise ModelClosedError."""

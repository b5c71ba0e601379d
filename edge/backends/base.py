"""What executes a forward: the one interface between Python's decisions and the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge._native import CancelFlag
from edge.canvas import RowStats


@dataclass(frozen=True)
class StepRequest:
    """One forward: which tokens are computed and what is asked of them.

    ``ids`` and ``positions`` are [active], positions ascending; ``head_rows`` are indices of the
    active tokens whose statistics are wanted. ``draw`` numbers the step within its request, so
    that (seed, draw, position, token) names the noise of one candidate. ``deadline_ns`` is on
    ``time.monotonic_ns``'s clock, 0 for none.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    head_rows: NDArray[np.int32]
    num_choices: int
    forbidden: list[int] = field(default_factory=list)
    temperature: float = 0.0
    seed: int = 0
    draw: int = 0
    cancel: CancelFlag | None = None
    deadline_ns: int = 0


class Backend(Protocol):
    """Runs one model. Calls from several threads are serialised."""

    @property
    def name(self) -> str:
        """The name in the registry."""

    @property
    def isa(self) -> str:
        """The instruction set in use."""

    @property
    def threads(self) -> int:
        """The number of threads in use."""

    def forward(self, request: StepRequest) -> RowStats | None:
        """Return statistics of the head rows, None when cancelled or past the deadline.

        Raises NumericError naming the layer where numbers stopped being finite.
        """

    def logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return [ids, vocab] of one forward over the whole canvas, nothing cached."""

    def close(self) -> None:
        """Free the weights after the step in flight; later calls raise ModelClosedError."""

"""Decoding from left to right: the model's own next token, and drafts that it verifies.

Their loop is ``edge/in_order.py``; where another loop asks them, they commit the leftmost token.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.samplers.base import BlockProgress, SamplerOptions


class Autoregressive:
    """A token per forward, each the model's own next one."""

    uses: ClassVar[frozenset[str]] = frozenset()
    reference_runs_all_steps: ClassVar[bool] = False

    def __init__(self, options: SamplerOptions) -> None:
        del options

    def choose(self, rows: RowStats, progress: BlockProgress) -> NDArray[np.intp]:
        """The leftmost row."""
        del progress
        return np.array([int(rows.positions.argmin())])

    def rank(self, rows: RowStats) -> NDArray[np.float64]:
        """From left to right."""
        return -rows.positions.astype(np.float64)


class Speculative(Autoregressive):
    """The same tokens in fewer forwards.

    Masked rows draft what may come next, and the causal rows of the next forward keep what agrees
    with their own next tokens (Leviathan et al., arXiv:2211.17192, with the model itself as its
    drafter: Samragh et al., arXiv:2507.11851).
    """

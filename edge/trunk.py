"""The forwards of a request that is decoded in order: plain rows, and behind them drafts.

The plain rows are a text that is encoded causally, so their keys and values stay exact and each row
gives the model's own next token. Behind one or more of them mask tokens may follow, a branch each,
whose rows say what might come after that. Several branches prepare for several outcomes of what is
verified by the same forward ("quadratic decoding", Samragh et al., arXiv:2507.11851; TiDAR,
arXiv:2511.08923).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge._native import CancelFlag
from edge.backends.base import NO_ROWS, Mask, StepRequest
from edge.canvas import Canvas, RowStats
from edge.dual_cache import DualCache
from edge.engine import Candidates, Engine
from edge.prefix import KeptPrefix

_MASK = Mask("causal")  # of plain rows


@dataclass(frozen=True)
class Seen:
    """What a forward said: ``own`` [drafted tokens + 1] the next token after each plain row from
    the last given one on, ``ahead`` by how many drafted tokens a branch takes for granted: what it
    makes of those that follow the own token there.
    """

    own: RowStats
    ahead: dict[int, RowStats]

    @property
    def head_ns(self) -> int:
        """What the head took."""
        return self.own.head_ns


class Trunk:
    """The forwards of one request; each returns None when cancelled, which changes nothing."""

    cache = "exact"
    num_refreshes = 0
    dual: DualCache | None = None

    def __init__(
        self,
        engine: Engine,
        canvas: Canvas,
        candidates: Candidates,
        cancel: CancelFlag | None,
        kept: KeptPrefix | None = None,
        num_reused: int = 0,
    ) -> None:
        """The first ``num_reused`` positions are stored already in what an earlier one ``kept``."""
        self._backend = engine.backend
        self._is_gated = engine.config.denoiser.gate_rank > 0
        self._diffusion = engine.config.diffusion
        self._canvas = canvas
        self._draws = engine.draws(candidates)
        self._cancel = cancel
        self._kept = kept if kept is not None else KeptPrefix()
        self._cache = self._kept.take(self._backend, len(canvas), num_reused)
        self.num_stored = num_reused  # positions before this one are in the cache
        self.forwards = 0
        self.deadline_ns = 0  # of the forwards to come, 0 for none
        self.shape = (0, 0, 0)  # of the last one: active, context and head rows
        self.num_masked = 0  # of the active rows

    def close(self) -> None:
        """Leave what is stored to the next request; no forward will follow."""
        self._kept.give_back(self._cache, self._canvas.ids[: self.num_stored], _MASK)

    def prefill(self, stop: int) -> RowStats | None:
        """Store the positions before ``stop``; statistics of nothing."""
        ids = self._canvas.ids[self.num_stored : stop]
        rows = self._forward(ids, NO_ROWS, [])
        if rows is not None:
            self.num_stored = stop
        return rows

    def forward(
        self, length: int, drafted: NDArray[np.int32], branches: Sequence[tuple[int, int]]
    ) -> Seen | None:
        """Look at the ``length`` given positions, at drafted tokens behind, and ahead.

        ``branches`` are (how many of the drafted tokens are granted, how many tokens to draft).
        All plain rows are stored; ``keep`` takes the wrong ones back.
        """
        ids = np.concatenate([self._canvas.ids[self.num_stored : length], drafted])
        last = length - 1 - self.num_stored
        own = np.arange(last, len(ids), dtype=np.int32)
        shapes = [
            (self._diffusion.draft_rows(num), last + 1 + granted) for granted, num in branches
        ]
        rows = self._forward(ids, own, shapes)
        if rows is None:
            return None
        self.num_stored += len(ids)
        return self._split(rows, length, len(drafted), branches)

    def keep(self, length: int) -> None:
        """Forget what was stored from position ``length`` on."""
        if length < self.num_stored:
            self._cache.truncate(length)
            self.num_stored = length

    def _split(
        self, rows: RowStats, length: int, drafted: int, branches: Sequence[tuple[int, int]]
    ) -> Seen:
        def part(first: int, count: int, position: int) -> RowStats:
            positions = np.arange(position, position + count, dtype=np.int32)
            return rows.take(np.arange(first, first + count), positions)

        own, first, ahead = part(0, drafted + 1, length), drafted + 1, {}
        for granted, count in branches:
            ahead[granted] = part(first, count, length + granted + 1)
            first += count
        return Seen(own, ahead)

    def _forward(
        self,
        ids: NDArray[np.int32],
        own: NDArray[np.int32],
        branches: Sequence[tuple[int, int]],
    ) -> RowStats | None:
        start, trunk = self.num_stored, len(ids)
        shifts, mask_token_id = self._diffusion.shift_logits, self._diffusion.mask_token_id
        parts = [np.arange(start, start + trunk)]
        parts += [np.arange(start + seen, start + seen + rows) for rows, seen in branches]
        positions = np.concatenate(parts).astype(np.int32)
        masked = np.arange(trunk, len(positions), dtype=np.int32)
        # Row i - 1 of a branch says what is at i; or row i does, and the first says nothing new.
        firsts = trunk + np.cumsum([0, *(rows for rows, _ in branches)])[:-1]
        says = np.ones(len(masked), bool) if shifts else ~np.isin(masked, firsts)
        drafts = masked[says]
        head_rows = np.concatenate([own, drafts])
        rows = self._backend.forward(
            StepRequest(
                ids=np.concatenate([ids, np.full(len(masked), mask_token_id, np.int32)]),
                positions=positions,
                head_rows=head_rows,
                # One number for all forwards: what is drawn depends on the place alone, so that
                # a draft meets the same noise as the row that verifies it.
                draws=replace(self._draws, number=0),
                gated_rows=masked if self._is_gated else NO_ROWS,
                branches=branches,
                mask=_MASK,
                cache=self._cache,
                store=True,
                num_stored=trunk,
                cancel=self._cancel,
                deadline_ns=self.deadline_ns,
            )
        )
        self.forwards += 1
        self.shape, self.num_masked = (len(positions), start, len(head_rows)), len(masked)
        return rows

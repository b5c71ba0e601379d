"""Decides which tokens a forward computes and what may be reused; the backend does the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge._native import CancelFlag
from edge.backends.base import NO_ROWS, Backend, Cache, Draws, LogitBias, Mask, StepRequest
from edge.canvas import Block, Canvas, RowStats
from edge.config import DiffusionConfig, ModelConfig
from edge.credit import Credit
from edge.dual_cache import DualCache
from edge.prefix import KeptPrefix

LIFT = 128.0  # nats; float32 still tells 1.5e-5 apart there


@dataclass(frozen=True)
class Candidates:
    """What a request wants of its candidates, the same for all its forwards.

    With ``mask_is_a_token`` nothing is forbidden, as in the published loops.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    forbid_eos: bool = False
    mask_is_a_token: bool = False


def attention_of(diffusion: DiffusionConfig, context_length: int, *, gated: bool = False) -> Mask:
    """The model's own attention for a text whose first ``context_length`` ids are given.

    Where rows are ``gated`` it is the attention of those that are not.
    """
    if gated:
        return Mask("causal")
    if diffusion.attention == "block":
        origin = context_length if diffusion.block_align == "prompt_end" else 0
        return Mask("block", diffusion.block_length, origin)
    if diffusion.attention == "causal_context":
        return Mask("causal_context", origin=context_length)
    return Mask()


class Engine:
    """A model ready for requests."""

    def __init__(self, backend: Backend, config: ModelConfig) -> None:
        self.backend = backend
        self.config = config

    def open(
        self,
        canvas: Canvas,
        candidates: Candidates,
        *,
        guidance_scale: float = 0.0,
        cancel: CancelFlag | None = None,
        dual: DualCache | None = None,
        credit: Credit | None = None,
        kept: KeptPrefix | None = None,
        num_reused: int = 0,
    ) -> Session:
        """Begin a request on a canvas.

        ``dual`` decides what a bidirectional model reuses, ``credit`` raises candidates that last.
        The first ``num_reused`` positions are stored already in what an earlier request ``kept``.
        """
        draws = self.draws(candidates)
        return Session(self, canvas, draws, guidance_scale, cancel, dual, credit, kept, num_reused)

    def log_probabilities(
        self,
        ids: NDArray[np.int32],
        context_length: int,
        positions: NDArray[np.int32],
        tokens: NDArray[np.int32],
        *,
        cancel: CancelFlag | None = None,
        deadline_ns: int = 0,
    ) -> NDArray[np.float64] | None:
        """What one forward without a cache says, in nats, of ``tokens`` at ``positions`` [asked].

        A position may be asked of several times, positions do not descend. None when it was
        stopped. Each is exact to about 1e-5, and never below -``LIFT``.
        """
        shift = int(self.config.diffusion.shift_logits)
        # Lifted above all others by a known amount, a token is the best one of its row.
        lift = np.full(len(tokens), LIFT, np.float32)
        rows = self.backend.forward(
            StepRequest(
                ids=ids,
                positions=np.arange(len(ids), dtype=np.int32),
                head_rows=np.maximum(positions - shift, 0),
                draws=Draws(num_choices=self.config.denoiser.vocab_size),
                gated_rows=self._masked_rows(ids, context_length),
                mask=self.mask(context_length),
                bias=LogitBias(np.arange(len(tokens) + 1, dtype=np.int32), tokens, lift),
                cancel=cancel,
                deadline_ns=deadline_ns,
            )
        )
        if rows is None:
            return None
        logits = rows.logits
        assert logits is not None, "scores need a backend that gives its logits"
        lifted = logits.top1_logit.astype(np.float64) - LIFT - logits.plain_log_z
        return np.where(logits.top1 == tokens, np.minimum(lifted, 0.0), -LIFT)

    def logits(self, ids: NDArray[np.int32], context_length: int) -> NDArray[np.float32]:
        """Return float32 [ids, vocab] of one forward; row i belongs to position i."""
        gated_rows = self._masked_rows(ids, context_length)
        return self.backend.logits(ids, self.mask(context_length), gated_rows)

    def _masked_rows(self, ids: NDArray[np.int32], context_length: int) -> NDArray[np.int32]:
        masked = ids == self.config.diffusion.mask_token_id
        masked[:context_length] = False
        return self.gated_rows(masked)

    def gated_rows(self, masked: NDArray[np.bool_]) -> NDArray[np.int32]:
        """The rows [rows] of mask tokens, where the model runs them with an adapter."""
        if not self.config.denoiser.gate_rank:
            return NO_ROWS
        return np.flatnonzero(masked).astype(np.int32)

    def mask(self, context_length: int) -> Mask:
        """The model's own attention for a text whose first ``context_length`` ids are given."""
        gated = self.config.denoiser.gate_rank > 0
        return attention_of(self.config.diffusion, context_length, gated=gated)

    def draws(self, candidates: Candidates) -> Draws:
        """What the backend is told of them."""
        diffusion = self.config.diffusion
        forbidden = (diffusion.mask_token_id, *(diffusion.eos_ids * candidates.forbid_eos))
        plain = candidates.mask_is_a_token
        return Draws(
            num_choices=self.config.denoiser.vocab_size if plain else self.config.num_tokens,
            forbidden=() if plain else forbidden,
            temperature=candidates.temperature,
            top_k=candidates.top_k,
            top_p=candidates.top_p,
            seed=candidates.seed,
        )


class Session:
    """The forwards of one request.

    Under full attention every row sees every other, so nothing computed before a token changed
    is exact afterwards: each forward computes the whole canvas, and only the head is spared the
    rows nobody asks about, unless a ``DualCache`` approximates. Otherwise committed blocks see
    nothing later; ``prefill`` and ``store`` keep their keys and values, and a forward computes one
    block. Where neither was called for what stands before a block, its first forward computes and
    stores that, too: the weights are read once instead of twice. ``DiffusionConfig.fuses`` says
    where that is exact.

    Each method returns None when it was cancelled, which leaves the cache as it was.
    """

    def __init__(
        self,
        engine: Engine,
        canvas: Canvas,
        draws: Draws,
        guidance_scale: float,
        cancel: CancelFlag | None,
        dual: DualCache | None,
        credit: Credit | None,
        kept: KeptPrefix | None,
        num_reused: int,
    ) -> None:
        self._backend = engine.backend
        self._gated_rows = engine.gated_rows
        self._own_mask = Mask("causal" if engine.config.denoiser.gate_rank else "full")
        self._diffusion = engine.config.diffusion
        self._mask_of_prompt = engine.mask(canvas.output_start)
        self._canvas = canvas
        self._draws = draws
        self._guidance_scale = guidance_scale
        self._cancel = cancel
        self._cache: Cache | None = None
        self.dual = dual
        self._credit = credit
        self._kept = kept if self._diffusion.caches else None
        if self._kept is not None:
            self._cache = self._kept.take(self._backend, len(canvas), num_reused)
        elif self._diffusion.caches or dual is not None:
            self._cache = self._backend.new_cache(len(canvas))
        self._num_stored = num_reused  # positions before this one are in the cache
        self._num_draws = 0
        self.forwards = 0
        self.deadline_ns = 0  # of the forwards to come, 0 for none
        self.shape = (0, 0, 0)  # of the last one: active, context and head rows

    def close(self) -> None:
        """Leave what is stored to the next request, if that was agreed."""
        if self._kept is not None and self._cache is not None:
            stored = self._canvas.ids[: self._num_stored]
            self._kept.give_back(self._cache, stored, self._mask_of_prompt)
            self._kept = self._cache = None

    def prefill(self, stop: int) -> RowStats | None:
        """Store the prompt's positions before ``stop``; rows as ``store`` returns them.

        Called again with a later one, it stores what lies between. Block attention wants each
        stop at a border of its blocks.
        """
        mask = self._mask_of_prompt
        if mask.kind == "causal_context":
            mask = Mask("causal")
        return self._store(self._num_stored, stop, mask)

    def store(self, block: Block) -> RowStats | None:
        """Store a finished block.

        For a model that carries a row over, return the statistics of the position after the
        block, otherwise of none.
        """
        causal = self._diffusion.attention == "causal_context"
        return self._store(block.origin, block.stop, Mask("causal" if causal else "full"))

    def denoise(self, block: Block, positions: NDArray[np.int32]) -> RowStats | None:
        """Return statistics of ``positions`` [rows] of a block."""
        start, stop, num_stored = self._active(block)
        # Row i - 1 predicts position i where the model shifts, except at the very beginning.
        shift = int(self._diffusion.shift_logits)
        wanted = np.maximum(positions - shift, start) - start
        head_rows, entry_of = np.unique(wanted, return_inverse=True)
        # Several blocks at once, when a budget is tight, see what blocks after each other see.
        several = self._diffusion.caches and stop - start > self._diffusion.block_length
        in_blocks = several and self._mask_of_prompt.kind == "block"
        rows = self._forward(
            start,
            stop,
            head_rows.astype(np.int32),
            mask=self._mask_of_prompt if num_stored or in_blocks else None,
            store=num_stored > 0,
            num_stored=num_stored,
            guided=True,
            credit=self._credit,
        )
        if rows is None:
            return None
        rows = rows.take(entry_of, positions)
        if self.dual is None:
            self._num_stored += num_stored
        elif num_stored:
            self.dual.refreshed(block, self._num_committed, rows)
        else:
            self.dual.reused(rows)
        return rows

    def num_active(self, block: Block) -> int:
        """How many tokens the next forward of a block computes."""
        start, stop, _ = self._active(block)
        return stop - start

    @property
    def num_refreshes(self) -> int:
        """Full forwards of the approximate cache so far."""
        return 0 if self.dual is None else self.dual.num_refreshes

    @property
    def cache(self) -> str:
        """What was reused so far: ``exact`` or ``dual``."""
        return "dual" if self.dual is not None and self.dual.num_approximate else "exact"

    @property
    def _num_committed(self) -> int:
        return int(np.count_nonzero(self._canvas.committed))

    def _active(self, block: Block) -> tuple[int, int, int]:
        """(start, stop) of what is computed and how many of these tokens are then stored."""
        length = len(self._canvas)
        if self.dual is not None:
            due = self.dual.is_due(block, self._num_committed)
            return (0, length, length) if due else (*self.dual.span(block), 0)
        if self._cache is None:
            return 0, length, 0
        return self._num_stored, block.stop, block.origin - self._num_stored

    def _store(self, start: int, stop: int, mask: Mask) -> RowStats | None:
        # A prompt that ends inside a block needs nobody to predict its own tokens.
        carries = self._diffusion.carries and not self._canvas.committed[stop : stop + 1].all()
        last = np.array([stop - start - 1], np.int32) if carries else NO_ROWS
        rows = self._forward(start, stop, last, mask=mask, store=True)
        if rows is None:
            return None
        self._num_stored = stop
        return replace(rows, positions=rows.positions + 1)

    def _forward(
        self,
        start: int,
        stop: int,
        head_rows: NDArray[np.int32],
        *,
        mask: Mask | None = None,
        store: bool = False,
        num_stored: int = 0,
        guided: bool = False,
        credit: Credit | None = None,
    ) -> RowStats | None:
        guided = guided and self._guidance_scale > 0
        request = StepRequest(
            ids=self._canvas.ids[start:stop],
            positions=np.arange(start, stop, dtype=np.int32),
            head_rows=head_rows,
            draws=replace(self._draws, number=self._num_draws),
            gated_rows=self._gated_rows(~self._canvas.committed[start:stop]),
            mask=mask or self._own_mask,
            cache=self._cache,
            store=store,
            num_stored=num_stored,
            bias=None if credit is None else credit.bias(head_rows + start),
            guidance_ids=self._canvas.without_prompt()[start:stop] if guided else None,
            guidance_scale=self._guidance_scale,
            cancel=self._cancel,
            deadline_ns=self.deadline_ns,
        )
        context = start if self.dual is None else len(self._canvas) - (stop - start)
        self.shape = (stop - start, context, len(head_rows))
        self.forwards += 1 + guided
        self._num_draws += bool(len(head_rows))  # fused or not, a step draws the same
        rows = self._backend.forward(request)
        return rows if rows is None or credit is None else credit.raised(rows)

"""The canvas: the token ids being refined, and what the denoiser says about some of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def probability(logit: NDArray[np.float32], log_z: NDArray[np.float32]) -> NDArray[np.float32]:
    """``exp(logit - log_z)``. In double, since numpy's float exp differs between processors."""
    exact: NDArray[np.float64] = np.exp(logit.astype(np.float64) - log_z)
    return exact.astype(np.float32)


@dataclass(frozen=True)
class RowLogits:
    """The logits behind some rows' statistics; all arrays are [rows].

    ``top1`` is the most probable token that may be chosen, whatever was drawn; ``top1_logit``
    and ``top2_logit`` belong to it and to the second, ``log_z`` to the whole row. ``plain_*`` are
    the same before anything was added to single logits.
    """

    top1: NDArray[np.int32]
    top1_logit: NDArray[np.float32]
    top2_logit: NDArray[np.float32]
    log_z: NDArray[np.float32]
    plain_top1: NDArray[np.int32]
    plain_top1_logit: NDArray[np.float32]
    plain_log_z: NDArray[np.float32]

    def take(self, entries: NDArray[np.intp]) -> RowLogits:
        """Some entries, in that order."""
        return RowLogits(**{name: values[entries] for name, values in vars(self).items()})


@dataclass(frozen=True)
class RowStats:
    """The denoiser's view of some positions, one entry each; all arrays are [rows].

    ``tokens`` are the candidates (most probable, or drawn at the asked temperature),
    ``confidence`` the model's plain probability of each, ``margin`` the probability of the most
    probable token less that of the second, ``entropy`` is in nats. ``logits`` are what they were
    computed from, where the backend gives it; ``head_ns`` is the time that the head took of their
    forward, 0 where the backend does not say.
    """

    positions: NDArray[np.int32]
    tokens: NDArray[np.int32]
    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    entropy: NDArray[np.float32]
    logits: RowLogits | None = None
    head_ns: int = 0

    @property
    def top1(self) -> NDArray[np.int32]:
        """The model's own most probable tokens, whatever was drawn."""
        return self.tokens if self.logits is None else self.logits.plain_top1

    @property
    def top1_probability(self) -> NDArray[np.float32]:
        """The model's probability of each of them."""
        logits = self.logits
        if logits is None:
            return self.confidence
        return probability(logits.plain_top1_logit, logits.plain_log_z)

    def take(self, entries: NDArray[np.intp], positions: NDArray[np.int32]) -> RowStats:
        """Some entries, in that order, as the view of other positions."""
        return RowStats(
            positions,
            self.tokens[entries],
            self.confidence[entries],
            self.margin[entries],
            self.entropy[entries],
            None if self.logits is None else self.logits.take(entries),
            self.head_ns,
        )


@dataclass(frozen=True)
class Block:
    """Positions ``start`` to before ``stop`` of the answer, decoded together.

    ``origin`` is where the model's own block begins: before ``start`` when it begins with the
    end of the prompt. ``whole`` says that the model's block ends at ``stop``, too, not later.
    """

    start: int
    stop: int
    origin: int
    whole: bool

    def parts(self, length: int | None) -> list[tuple[int, int]]:
        """(start, stop) of sub-blocks of ``length`` counted from ``origin``; None: one part."""
        if length is None:
            return [(self.start, self.stop)]
        borders = range(self.origin, self.stop, length)
        parts = [(max(b, self.start), min(b + length, self.stop)) for b in borders]
        return [(start, stop) for start, stop in parts if start < stop]


class Canvas:
    """Ids [length] with a committed flag each; what was given never changes.

    ``output_start`` is where the answer begins: the prompt's end, or where the first block begins
    of a canvas that ``is_form``, whose holes may be anywhere, with given text around them.
    """

    def __init__(
        self,
        ids: NDArray[np.int32],
        committed: NDArray[np.bool_],
        output_start: int,
        mask_token_id: int,
        *,
        is_form: bool = False,
        spans: Sequence[tuple[int, int]] = (),
        end_ids: Collection[int] = (),
    ) -> None:
        self.ids = ids
        self.committed = committed
        self.given = committed.copy()
        self.output_start = output_start
        self.mask_token_id = mask_token_id
        self.is_form = is_form
        self._end_ids = np.array(sorted(end_ids), np.int32)
        self._hole_stop = np.zeros(len(ids), np.int32)  # of the hole at a position
        for start, stop in spans:
            self._hole_stop[start:stop] = stop

    @classmethod
    def append(cls, prompt: NDArray[np.int32], num_new: int, mask_token_id: int) -> Canvas:
        """Prompt, immutable whatever it holds, followed by ``num_new`` mask tokens."""
        ids = np.concatenate([prompt, np.full(num_new, mask_token_id, np.int32)])
        committed = np.arange(len(ids)) < len(prompt)
        return cls(ids, committed, len(prompt), mask_token_id)

    @classmethod
    def in_place(cls, prompt: NDArray[np.int32], mask_token_id: int) -> Canvas:
        """The prompt itself; its mask tokens are the holes, everything else is immutable."""
        return cls(prompt.copy(), prompt != mask_token_id, 0, mask_token_id, is_form=True)

    @classmethod
    def form(
        cls,
        ids: NDArray[np.int32],
        spans: Sequence[tuple[int, int]],
        output_start: int,
        mask_token_id: int,
        end_ids: Collection[int],
    ) -> Canvas:
        """``ids`` [length] with a hole at each of the spans (start, stop), and nowhere else.

        A committed token of ``end_ids`` ends its hole: what follows there takes the same token,
        since nobody will read it. Mask tokens outside the holes are given, like all other text.
        """
        committed = np.ones(len(ids), np.bool_)
        for start, stop in spans:
            committed[start:stop] = False
        return cls(
            np.where(committed, ids, np.int32(mask_token_id)),
            committed,
            output_start,
            mask_token_id,
            is_form=True,
            spans=spans,
            end_ids=end_ids,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def without_prompt(self) -> NDArray[np.int32]:
        """The ids with all that was given masked, for classifier-free guidance."""
        return np.where(self.given, np.int32(self.mask_token_id), self.ids)

    def holes(self, start: int = 0, stop: int | None = None) -> NDArray[np.int32]:
        """Uncommitted positions from ``start`` to before ``stop``, ascending."""
        return (np.flatnonzero(~self.committed[start:stop]) + start).astype(np.int32)

    def commit(
        self,
        positions: NDArray[np.int32],
        tokens: NDArray[np.int32],
        *,
        mask_is_a_token: bool = False,
    ) -> None:
        """Give positions their tokens for good.

        Raises ValueError for a committed position or a mask token. With ``mask_is_a_token`` a
        mask token is written but stays a hole, as the references do that do not forbid it.
        """
        if self.committed[positions].any():
            raise ValueError("a committed position cannot be committed again")
        is_mask = tokens == self.mask_token_id
        if is_mask.any() and not mask_is_a_token:
            raise ValueError("the mask token cannot be committed")
        self.ids[positions] = tokens
        self.committed[positions] = ~is_mask
        if self._hole_stop.any():
            for end in positions[np.isin(tokens, self._end_ids)].tolist():
                rest = self.holes(end, int(self._hole_stop[end]))
                self.ids[rest] = self.ids[end]
                self.committed[rest] = True

    def editable(self, start: int, stop: int) -> NDArray[np.int32]:
        """Committed positions that were not given; in a form no end tokens, which close holes."""
        own = self.committed[start:stop] & ~self.given[start:stop]
        if self.is_form:
            own &= ~np.isin(self.ids[start:stop], self._end_ids)
        return (np.flatnonzero(own) + start).astype(np.int32)

    def edit(
        self,
        positions: NDArray[np.int32],
        tokens: NDArray[np.int32],
        *,
        mask_is_a_token: bool = False,
    ) -> None:
        """Replace tokens that were committed. Raises like ``commit``, and for what was given."""
        if self.given[positions].any() or not self.committed[positions].all():
            raise ValueError("only what was committed can be edited")
        if not mask_is_a_token and (tokens == self.mask_token_id).any():
            raise ValueError("the mask token cannot be committed")
        self.committed[positions] = False
        self.commit(positions, tokens, mask_is_a_token=mask_is_a_token)

    def remask(self, positions: NDArray[np.int32]) -> None:
        """Make holes of committed positions; raises ValueError for what was given or is a hole."""
        if self.given[positions].any() or not self.committed[positions].all():
            raise ValueError("only what was committed can be remasked")
        self.ids[positions] = self.mask_token_id
        self.committed[positions] = False

    def restore(self, positions: NDArray[np.int32], tokens: NDArray[np.int32]) -> None:
        """Put back what ``remask`` took, whatever has been committed there since."""
        self.ids[positions] = tokens
        self.committed[positions] = True

    def committed_prefix(self) -> NDArray[np.int32]:
        """The answer's ids before its first hole."""
        holes = self.holes(self.output_start)
        stop = int(holes[0]) if len(holes) else len(self)
        return self.ids[self.output_start : stop]


def blocks_of(canvas: Canvas, block_length: int, origin: int) -> list[Block]:
    """The answer's blocks, whose borders are ``block_length`` apart and go through ``origin``.

    The first may begin inside the model's block, the last may end inside it.
    """
    blocks = []
    start = canvas.output_start
    while start < len(canvas):
        inside = (start - origin) % block_length
        end = start - inside + block_length
        stop = min(end, len(canvas))
        blocks.append(Block(start, stop, start - inside, whole=stop == end))
        start = stop
    return blocks

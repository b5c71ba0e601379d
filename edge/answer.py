"""Where the answer ends, and how much of it stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.canvas import Canvas
from edge.config import DiffusionConfig
from edge.request import GenerateConfig


class Answer:
    """The answer on a canvas; nothing before position ``settled`` is taken back any more.

    With ``is_edited`` tokens of the block at hand may still be replaced.
    """

    def __init__(
        self,
        canvas: Canvas,
        diffusion: DiffusionConfig,
        options: GenerateConfig,
        *,
        is_edited: bool = False,
    ) -> None:
        self._canvas = canvas
        self._diffusion = diffusion
        self._options = options
        self._is_edited = is_edited
        self.settled = canvas.output_start

    def settled_prefix(self) -> NDArray[np.int32]:
        """The committed beginning that will not be taken back."""
        prefix = self._canvas.committed_prefix()
        if self._options.remask == "none" and not self._is_edited:
            return prefix
        return prefix[: self.settled - self._canvas.output_start]

    def part_done(self, stop: int) -> None:
        """The positions before ``stop`` are not edited any more."""
        if self._is_edited and self._options.remask == "none":
            self.settled = stop

    def eos_index(self) -> int | None:
        """Index of the first end token in the committed beginning."""
        if self._canvas.is_form or self._options.eos == "forbid":
            return None
        hits = np.flatnonzero(np.isin(self._canvas.committed_prefix(), self._diffusion.eos_ids))
        return int(hits[0]) if len(hits) else None

    def ends_early(self) -> bool:
        """Whether an end token has everything before it; of the references one looks so soon."""
        if self._options.reference and self._diffusion.sub_block_length is None:
            return False
        return self.eos_index() is not None and not self._is_edited

    def ends_after_block(self) -> bool:
        """The loops of full attention run to their last step, those of block models do not."""
        if self._options.reference and not self._diffusion.caches:
            return False
        return self.eos_index() is not None

    def before_eos(self, prefix: NDArray[np.int32]) -> NDArray[np.int32]:
        """A beginning of the answer without what the end token cuts off."""
        end = self.eos_index()
        if not self._options.reference or end is None:
            return prefix[:end]
        # Of the published loops only the one with sub-blocks cuts, and behind the end token.
        return prefix if self._diffusion.sub_block_length is None else prefix[: end + 1]

    def ids(self, status: str) -> NDArray[np.int32]:
        """A finished answer whole, a cancelled one as far as it is committed."""
        if status != "complete" and not self._canvas.is_form:
            return self.before_eos(self._canvas.committed_prefix())
        return self.before_eos(self._canvas.ids[self._canvas.output_start :])

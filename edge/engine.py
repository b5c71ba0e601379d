"""Decides which tokens a forward computes and what may be reused; the backend does the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge._native import CancelFlag
from edge.backends.base import Backend, StepRequest
from edge.canvas import Canvas, RowStats
from edge.config import ModelConfig


class Engine:
    """A model ready for forwards.

    Under full attention every row sees every other, so nothing computed before a token changed
    is exact afterwards: each forward computes the whole canvas, and only the head is spared
    the rows nobody asks about.
    """

    cache = "exact"

    def __init__(self, backend: Backend, config: ModelConfig) -> None:
        self.backend = backend
        self._config = config

    def denoise(
        self,
        canvas: Canvas,
        positions: NDArray[np.int32],
        *,
        draw: int,
        seed: int = 0,
        temperature: float = 0.0,
        mask_is_a_token: bool = False,
        cancel: CancelFlag | None = None,
    ) -> RowStats | None:
        """Return statistics of ``positions`` [rows]; None when cancelled.

        Neither the mask token nor a padding row of the embedding is ever a candidate, unless
        ``mask_is_a_token``.
        """
        diffusion = self._config.diffusion
        num_rows = self._config.denoiser.vocab_size
        request = StepRequest(
            ids=canvas.ids,
            positions=np.arange(len(canvas), dtype=np.int32),
            head_rows=positions,
            num_choices=num_rows if mask_is_a_token else self._config.num_tokens,
            forbidden=[] if mask_is_a_token else [diffusion.mask_token_id],
            temperature=temperature,
            seed=seed,
            draw=draw,
            cancel=cancel,
        )
        return self.backend.forward(request)

    def logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return float32 [ids, vocab] of one forward; row i belongs to position i."""
        return self.backend.logits(ids)

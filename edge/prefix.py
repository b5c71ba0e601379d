"""Keys and values that outlive a request, so that a conversation is not stored twice.

Reused is only what a request of its own would store with the same bits: the same ids from the
first one on and, where the model attends in blocks, whole blocks with the same borders.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Backend, Cache, Mask
from edge.config import DiffusionConfig

_NO_IDS = np.empty(0, np.int32)


class KeptPrefix:
    """What the last request of a conversation has stored.

    A request takes it and gives it back; one that comes between, from another thread, finds
    nothing and stores for itself.
    """

    def __init__(self) -> None:
        self._cache: Cache | None = None
        self._ids = _NO_IDS
        self._mask = Mask()

    def num_reusable(
        self, ids: NDArray[np.int32], stop: int, mask: Mask, diffusion: DiffusionConfig
    ) -> int:
        """How many of the first ``stop`` ids [canvas] need not be stored again.

        ``mask`` is what the request attends by. Where the forward that stores the end of the
        prompt also predicts the first token of the answer, that forward is left to be run.
        """
        if self._cache is None or _phase(mask) != _phase(self._mask):
            return 0
        length = max(0, min(len(self._ids), stop - diffusion.carries))
        differs = np.flatnonzero(self._ids[:length] != ids[:length])
        common = int(differs[0]) if len(differs) else length
        if mask.kind != "block":
            return common
        return max(0, common - (common - _phase(mask)) % mask.block_length)

    def take(self, backend: Backend, capacity: int, num_reused: int) -> Cache:
        """Return a cache for positions below ``capacity`` that holds the first ``num_reused``."""
        cache, self._cache, self._ids = self._cache, None, _NO_IDS
        if cache is None:
            return backend.new_cache(capacity)
        cache.truncate(num_reused)
        cache.reserve(capacity)
        return cache

    def give_back(self, cache: Cache, ids: NDArray[np.int32], mask: Mask) -> None:
        """Keep a cache that holds these ids from position 0 on."""
        self._cache, self._ids, self._mask = cache, ids.copy(), mask


def _phase(mask: Mask) -> int:
    """Where the borders of blocks are."""
    return mask.origin % mask.block_length if mask.kind == "block" else 0

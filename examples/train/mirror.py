"""A toy task: palindromes of letters; of each pair of mirrored letters one may be missing."""

from __future__ import annotations

from typing import Any

import numpy as np
from denoiser import MASK, Denoiser
from tasks import HeldOut, Pairs, word_tokenizer

LETTERS = "abcdefgh"
HALF = 8
HELD_OUT_SEED = 1 << 32  # no training seed: those are smaller


class Mirror:
    name = "mirror"
    vocab_size = 1 + len(LETTERS)
    canvas_length = 2 * HALF

    def tokenizer(self) -> dict[str, Any]:
        return word_tokenizer("." + LETTERS, ignore=f"[^{LETTERS}.]", also_mask="_")

    def pairs(self, seed: int, first: int, count: int) -> Pairs:
        random = np.random.default_rng((seed, first))
        half = random.integers(1, self.vocab_size, (count, HALF), np.uint8)
        answers = np.concatenate((half, half[:, ::-1]), 1)
        side = random.integers(0, 3, (count, HALF))  # which of the two is missing, or neither
        missing = np.concatenate((side == 0, (side == 1)[:, ::-1]), 1)
        return np.where(missing, MASK, answers).astype(np.uint8), answers

    def held_out(self, count: int) -> HeldOut:
        return {"all": self.pairs(HELD_OUT_SEED, 0, count)}

    def prepare(self, model: Denoiser) -> None:
        """Nothing: the plain start learns it."""


TASK = Mirror()

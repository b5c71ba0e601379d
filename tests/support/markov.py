"""A denoiser that knows the truth: exact posteriors of a Markov chain given what is committed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_STATES = 16
Floats = NDArray[np.float64]


class Chain:
    """A random chain of ``NUM_STATES`` tokens in which few transitions are likely."""

    def __init__(self, seed: int, sharpness: float = 4.0) -> None:
        random = np.random.default_rng(seed)
        weights = np.exp(sharpness * random.normal(size=(NUM_STATES, NUM_STATES)) / 2)
        self.transition: Floats = weights / weights.sum(axis=1, keepdims=True)

    def posterior(self, ids: NDArray[np.int32], mask: int) -> Floats:
        """Return [positions, states] given the committed ids, by forward and backward passes."""
        evidence = np.ones((len(ids), NUM_STATES))
        known = ids != mask
        evidence[known] = np.eye(NUM_STATES)[ids[known]] + 1e-12
        ahead, behind = np.ones_like(evidence), np.ones_like(evidence)
        ahead[0] = evidence[0] / evidence[0].sum()
        for i in range(1, len(ids)):
            ahead[i] = (ahead[i - 1] @ self.transition) * evidence[i]
            ahead[i] /= ahead[i].sum()
        for i in range(len(ids) - 2, -1, -1):
            behind[i] = self.transition @ (behind[i + 1] * evidence[i + 1])
            behind[i] /= behind[i].sum()
        posterior = ahead * behind
        normal: Floats = posterior / posterior.sum(axis=1, keepdims=True)
        return normal

    def nll(self, ids: NDArray[np.int32]) -> float:
        """Mean negative log-likelihood of the transitions: low is good."""
        return float(-np.log(self.transition[ids[:-1], ids[1:]]).mean())

"""Canvases on their way from noise to text, which the network learns from as they pass.

A new canvas gets a random noise level: a share of its holes, all of them in `full_noise` of the
cases, stays masked (LLaDA, arXiv:2502.09992). With more than one visit it comes back with the
holes filled by their true tokens that the network was sure of, and with the surest one in any
case: the states that confidence-ordered samplers meet. Easy canvases are done soon and make room,
those on which the network hesitates stay, so most work goes into what it cannot do yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from denoiser import MASK
from tasks import Task
from torch import Tensor


@dataclass
class Canvases:
    """`ids`, `answers` [batch, length]; `visits` [batch] so far; `num_drawn` pairs of the task."""

    ids: Tensor
    answers: Tensor
    visits: Tensor
    num_drawn: int = 0

    @classmethod
    def empty(cls, batch: int, length: int) -> Canvases:
        """Canvases without holes: the first `renew` replaces them all."""
        ids = torch.full((batch, length), MASK + 1)
        return cls(ids, ids.clone(), torch.zeros(batch, dtype=torch.long))

    def renew(self, task: Task, seed: int, most_visits: int, full_noise: float) -> None:
        """Replace what has no holes left or was seen often enough by new pairs."""
        done = (self.visits >= most_visits) | (self.ids != MASK).all(1)
        count = int(done.sum())
        if not count:
            return
        prompts, answers = task.pairs(seed, self.num_drawn, count)
        random = np.random.default_rng((seed, self.num_drawn))
        level = random.random((count, 1), np.float32)
        level[random.random(count) < full_noise] = 1
        shown = random.random(prompts.shape, np.float32) >= level
        ids = np.where(shown, answers, prompts)
        untouched = (ids != MASK).all(1, keepdims=True)
        ids = np.where(untouched, prompts, ids)
        self.ids[done] = torch.from_numpy(ids).long()
        self.answers[done] = torch.from_numpy(answers).long()
        self.visits[done] = 0
        self.num_drawn += count

    def advance(self, logits: Tensor, threshold: float) -> None:
        """Fill in the true tokens where `logits` [batch, length, vocab] are sure enough."""
        sure, _ = surest(logits, self.ids, threshold)
        self.ids = torch.where(sure, self.answers, self.ids)
        self.visits += 1


def surest(logits: Tensor, ids: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Which masked positions are surer than `threshold`, or the surest of their canvas, and the
    likeliest token of every position; both [batch, length].
    """
    no_mask = logits.float().index_fill(-1, torch.tensor([MASK]), -torch.inf)
    confidence, tokens = no_mask.softmax(-1).max(-1)
    confidence = confidence.where(ids == MASK, -1)
    sure = confidence > threshold
    return sure.scatter(1, confidence.argmax(1, keepdim=True), True), tokens


@torch.no_grad()
def denoise(model: torch.nn.Module, ids: Tensor, threshold: float) -> tuple[Tensor, float]:
    """Fill canvases [batch, length]: each step commits what is surer than `threshold`, at least
    one token. Returns them and the mean number of steps.
    """
    ids, num_forwards = ids.clone(), 0
    while (todo := (ids == MASK).any(1).nonzero()[:, 0]).numel():
        sure, tokens = surest(model(ids[todo])[-1], ids[todo], threshold)
        ids[todo] = torch.where(sure, tokens, ids[todo])
        num_forwards += todo.numel()
    return ids, num_forwards / len(ids)

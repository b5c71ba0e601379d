"""The experts of a mixture, as keys of a model file describe them."""

from __future__ import annotations

from dataclasses import dataclass

SCORES = {1: "softmax", 2: "sigmoid"}  # llama.cpp's numbers of the key


@dataclass(frozen=True)
class Experts:
    """The experts of a mixture and how rows choose among them, as native/router.h has it.

    A row takes ``num_used`` of ``num_experts``, ``size`` wide. ``shared_size`` is the width of
    what all rows go through beside them, 0 for nothing. The first ``num_dense_layers`` layers
    have no experts. A score is the softmax or sigmoid of a logit; the largest sums of score and
    the layer's bias are chosen, from ``num_used_groups`` of ``num_groups`` groups only, and count
    by their scores (with ``bias_counts`` by the sums), divided by the chosen ones' total where
    the mixture ``renormalises``, times ``scale``.
    """

    num_experts: int
    num_used: int
    size: int
    shared_size: int = 0
    num_dense_layers: int = 0
    scores: str = "softmax"
    renormalises: bool = False
    bias_counts: bool = False
    scale: float = 1.0
    num_groups: int = 1
    num_used_groups: int = 1

    def touched_by(self, rows: int) -> float:
        """How many experts have some of so many rows, where these choose evenly."""
        return self.num_experts * (1 - (1 - self.num_used / self.num_experts) ** rows)

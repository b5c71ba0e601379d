"""The experts of a mixture, as keys of a model file describe them."""

from __future__ import annotations

from dataclasses import dataclass

from edge.formats import keys

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

    def keys(self) -> dict[str, int | float]:
        """What a file says of them; what means nothing where it is not said is left out."""
        counts: dict[str, int | float] = {
            keys.NUM_EXPERTS: self.num_experts,
            keys.NUM_USED_EXPERTS: self.num_used,
            keys.EXPERT_SIZE: self.size,
            keys.SHARED_EXPERT_SIZE: self.shared_size,
            keys.NUM_DENSE_LAYERS: self.num_dense_layers,
            keys.EXPERT_SCORES: {name: number for number, name in SCORES.items()}[self.scores],
        }
        if self.num_groups > 1:
            counts[keys.NUM_EXPERT_GROUPS] = self.num_groups
            counts[keys.NUM_USED_EXPERT_GROUPS] = self.num_used_groups
        said = {key: value for key, value in counts.items() if value}
        said[keys.EXPERTS_RENORMALISE] = self.renormalises
        return said | ({keys.EXPERT_SCALE: self.scale} if self.scale != 1.0 else {})

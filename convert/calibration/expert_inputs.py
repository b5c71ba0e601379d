"""What enters the matrices of a layer's experts, each of which sees its own rows only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convert.calibration.moments import Moments, inverse_factor

Pairs = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


@dataclass
class ExpertInputs:
    """Inputs [rows, cols] and which of them each expert gets, by pairs of expert and row.

    The moments of an expert's own rows lean on those of `all_rows` the more, the fewer it has: on
    all of the inputs' where experts read the same space, else on its own without what its columns
    have in common. Only one expert's are made at a time: all would not fit in memory.
    """

    inputs: NDArray[np.float32]
    experts: NDArray[np.int32]
    rows: NDArray[np.int32]
    shares_space: bool

    @cached_property
    def all_rows(self) -> Moments:
        """The moments of all inputs."""
        moments = Moments.of_columns(self.inputs.shape[1])
        moments.add(self.inputs)
        return moments

    @property
    def diagonal(self) -> NDArray[np.float64]:
        """Each column's mean square."""
        return self.all_rows.diagonal

    @property
    def int8_noise(self) -> float:
        """As `Moments` has it."""
        return self.all_rows.int8_noise

    def of(self, expert: int) -> NDArray[np.float32]:
        """The expert's own inputs."""
        return np.asarray(self.inputs[self.rows[self.experts == expert]])

    def factors(self, expert: int) -> list[NDArray[np.float32]]:
        """Of each block of columns, as `Moments.factors`."""
        own = Moments.of_columns(self.inputs.shape[1])
        chosen = self.of(expert)
        if len(chosen):
            own.add(chosen)
        trust = len(chosen) / (len(chosen) + self.inputs.shape[1])
        return [
            inverse_factor(self._blended(mine, others, len(chosen), trust))
            for mine, others in zip(own.blocks, self.all_rows.blocks, strict=True)
        ]

    def _blended(
        self, own: NDArray[np.float32], others: NDArray[np.float32], count: int, trust: float
    ) -> NDArray[np.float32]:
        mine = own / max(1, count)
        if self.shares_space:
            prior = others / max(1, self.all_rows.num_rows)
        else:
            prior = np.diag(np.diagonal(mine))
        return np.asarray(trust * mine + (1 - trust) * prior, np.float32)


def of_layer(inputs: Sequence[NDArray[np.float32]], pairs: Sequence[Pairs]) -> list[ExpertInputs]:
    """Of gate and up, then of down: from each canvas the layer's inputs and its pairs."""
    firsts = np.cumsum([0, *map(len, inputs)])
    experts, rows, down = (np.concatenate([each[part] for each in pairs]) for part in range(3))
    counts = [len(each[1]) for each in pairs]
    rows = (rows + np.repeat(firsts[:-1], counts)).astype(np.int32)
    own_rows = np.arange(len(down), dtype=np.int32)
    return [
        ExpertInputs(np.concatenate(inputs), experts, rows, shares_space=True),
        ExpertInputs(down, experts, own_rows, shares_space=False),
    ]

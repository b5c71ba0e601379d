"""Powers of two that move between the channels of neighbouring weights.

What leaves a norm, or a row of a matrix, is divided by what the columns it meets are multiplied
with. A power of two changes no bit of a float's fraction, so the network in float stays the same
bit for bit; what changes is how well its weights and inputs can be rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Exponents = NDArray[np.int32]


@dataclass(frozen=True)
class ChannelScales:
    """By the name of a tensor, exponents: rows are divided, columns multiplied by two to them.

    The only row of a norm or a bias counts as a row for each of its values.
    """

    rows: dict[str, Exponents] = field(default_factory=dict)
    cols: dict[str, Exponents] = field(default_factory=dict)

    def apply(
        self, name: str, values: NDArray[np.float32], first_row: int = 0
    ) -> NDArray[np.float32]:
        """`values` are rows of the tensor from `first_row` on."""
        if name in self.cols:
            values = np.ldexp(values, self.cols[name])
        if name in self.rows:
            exponents = self.rows[name][first_row : first_row + len(values)]
            values = np.ldexp(values, -exponents.reshape(-1, *(1,) * (values.ndim - 1)))
        return values

"""How far apart a network takes its tokens to be: stretched rotary positions, sharper queries.

YaRN (Peng et al., arXiv:2309.00071) as transformers computes it: frequencies that turn often within
the length a model was first trained with stay, slow ones are divided by a factor, those between
are mixed. Ministral 3 (after Llama 4) multiplies far queries, ``1 + beta * ln(1 + position //
length)``. Keys have the names and the meaning of llama.cpp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge.formats import keys
from edge.key_reader import LARGEST, KeyReader

BETA_FAST, BETA_SLOW = 32.0, 1.0
_WIDEST_HEAD = 1 << 16


@dataclass(frozen=True)
class Yarn:
    """``magnitude`` multiplies what is rotated; ``factor`` times ``original_length`` is reached."""

    factor: float
    original_length: int
    beta_fast: float
    beta_slow: float
    magnitude: float

    def frequencies(self, theta: float, dims: int) -> list[float]:
        """Radians per position of each of the ``dims`` / 2 pairs."""
        low = max(math.floor(self._pair_that_turns(self.beta_fast, theta, dims)), 0)
        high = min(math.ceil(self._pair_that_turns(self.beta_slow, theta, dims)), dims - 1)
        width = float(high - low) or 0.001
        found = []
        for pair in range(dims // 2):
            plain = theta ** (-2.0 * pair / dims)
            stretched = min(max((pair - low) / width, 0.0), 1.0)
            found.append(plain * (1 - stretched) + plain / self.factor * stretched)
        return found

    def _pair_that_turns(self, times: float, theta: float, dims: int) -> float:
        """The pair, not a whole number, that turns so often within the original length."""
        return dims * math.log(self.original_length / (times * 2 * math.pi)) / (2 * math.log(theta))


@dataclass(frozen=True)
class QueryScale:
    """Queries from position ``length`` on are multiplied by more than one."""

    beta: float
    length: int


def usual_magnitude(factor: float) -> float:
    """What YaRN multiplies by where nothing else is said."""
    return 0.1 * math.log(factor) + 1.0


def read_yarn(reader: KeyReader, rope_theta: float, head_dim: int) -> Yarn | None:
    """None where positions are not stretched."""
    kind = reader.text(keys.ROPE_SCALING, default="none")
    if kind == "none":
        return None
    if kind != "yarn":
        raise reader.unsupported(keys.ROPE_SCALING, kind, "yarn or none")
    if rope_theta <= 1.0:
        raise reader.fail(keys.ROPE_THETA, f"is {rope_theta:g}, YaRN needs more than 1")
    if head_dim > _WIDEST_HEAD:  # a claim, for which frequencies would be made at once
        raise reader.fail(keys.HEAD_DIM, f"is {head_dim}, YaRN goes up to {_WIDEST_HEAD}")
    factor = reader.positive(keys.ROPE_FACTOR, high=1e6)
    if factor < 1.0:
        raise reader.fail(keys.ROPE_FACTOR, f"is {factor:g}, not a number from 1")
    times = reader.positive(keys.ROPE_MAGNITUDE, default=1.0, high=1e6)
    return Yarn(
        factor=factor,
        original_length=reader.integer(keys.ROPE_ORIGINAL_LENGTH, high=LARGEST),
        beta_fast=reader.positive(keys.YARN_BETA_FAST, default=BETA_FAST, high=1e6),
        beta_slow=reader.positive(keys.YARN_BETA_SLOW, default=BETA_SLOW, high=1e6),
        magnitude=times * usual_magnitude(factor),
    )


def read_query_scale(reader: KeyReader) -> QueryScale | None:
    """None where all queries count alike."""
    if reader.integer(keys.QUERY_SCALE_LENGTH, default=0, low=0, high=LARGEST) == 0:
        return None
    length = reader.integer(keys.QUERY_SCALE_LENGTH, high=LARGEST)
    return QueryScale(reader.positive(keys.QUERY_SCALE, high=1e3), length)

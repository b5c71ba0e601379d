"""Channel scales that make a network easier to round, chosen by what rounding then costs.

Xiao et al., "SmoothQuant" (arXiv:2211.10438): inputs that are large in a few channels waste the
steps of int8 on all others; their columns of weights can take over some of it. Here the strength
of that is tried on a sample of the inputs, for each place on its own, none among the choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from convert.calibration.compensation import read_back
from convert.calibration.expert_inputs import ExpertInputs
from convert.calibration.moments import Moments
from convert.calibration.reference import Reference
from convert.channel_scales import ChannelScales, Exponents
from convert.models.gate import SUFFIXES
from convert.parallel import in_order
from convert.work_folder import WorkFolder
from edge.formats.groups import Layout

STRENGTHS = (0.5, 0.65, 0.8)  # of the inputs' share; the weights' is the rest
_FARTHEST = 8  # exponent: half-precision scales of groups have room for it
_TINY = 1e-12
_PEAK_ROWS = 1024  # read at once
_PIECES, _PIECE_ROWS = 4, 32  # of a matrix's rows that the choice is tried on


@dataclass(frozen=True)
class Place:
    """Tensors whose rows make what enters some matrices; of `heads`, where keys' are fewer."""

    makers: tuple[str, ...]
    matrices: tuple[str, ...]
    of_heads: bool = False

    def within(self, prefix: str) -> Place:
        """The same place of one layer."""
        makers, matrices = (
            tuple(prefix + name for name in names) for names in (self.makers, self.matrices)
        )
        return Place(makers, matrices, self.of_heads)


IN_LAYER = (
    Place(("attn_norm.weight",), ("attn_q.weight", "attn_k.weight", "attn_v.weight")),
    Place(("attn_v.weight", "attn_v.bias"), ("attn_output.weight",), of_heads=True),
    Place(("ffn_norm.weight",), ("ffn_gate.weight", "ffn_up.weight")),
    Place(("ffn_up.weight",), ("ffn_down.weight",)),
)
BEFORE_HEAD = (Place(("output_norm.weight",), ("output.weight",)),)


@dataclass(frozen=True)
class Met:
    """A matrix that meets the inputs: some of its rows, the columns' peaks, how it is stored."""

    rows: NDArray[np.float32]
    peaks: NDArray[np.float32]
    layout: Layout


@dataclass
class Smoothing:
    """Chooses `scales` place by place; those that `work` keeps are not chosen again.

    Only tensors of `layouts` that are quantized are changed; with none, nothing is.
    """

    reference: Reference
    layouts: Mapping[str, Layout]
    work: WorkFolder
    scales: ChannelScales = field(default_factory=ChannelScales)

    def recall(self, places: Sequence[Place]) -> bool:
        """Whether the scales of these places are known; then they are in force."""
        if not self.layouts:
            return True
        kept = self.work.json(_file_of(places))
        for place in places if kept is not None else ():
            if exponents := kept.get(place.matrices[0]):
                self._set(place, np.array(exponents, np.int32))
        return kept is not None

    def choose(
        self, places: Sequence[Place], moments: Mapping[str, Moments | ExpertInputs]
    ) -> None:
        """Find scales for places whose inputs have these moments, which become the scaled ones'.

        What experts read stays as it is: the router reads it too, and stays float.
        """
        if not self.layouts:
            return
        chosen = {}
        for place in filter(self._is_open, places):
            inputs = moments[place.matrices[0]]
            assert isinstance(inputs, Moments), "no place holds matrices of experts"
            matrices = [self._met(name) for name in place.matrices]
            exponents = exponents_for(inputs, matrices, self._heads(place))
            chosen[place.matrices[0]] = exponents.tolist()
            self._set(place, exponents)
            inputs.divide(exponents)
        self.work.keep_json(_file_of(places), chosen)

    def _is_open(self, place: Place) -> bool:
        tensors = self.reference.file.tensors

        def may_change(name: str) -> bool:
            layout = self.layouts.get(name)
            return layout is not None and (layout.group_size > 1 or len(tensors[name].shape) == 1)

        makers = [name for name in place.makers if name in tensors]
        return all(map(may_change, (*makers, *place.matrices)))

    def _heads(self, place: Place) -> tuple[int, int]:
        sizes = self.reference.config.denoiser
        groups = sizes.num_kv_heads
        return (groups, sizes.num_heads // groups) if place.of_heads else (1, 1)

    def _set(self, place: Place, exponents: Exponents) -> None:
        groups, repeats = self._heads(place)
        of_rows = exponents.reshape(groups, repeats, -1)[:, 0].reshape(-1)
        self.scales.cols.update(dict.fromkeys(self._with_gates(place.matrices, "a"), exponents))
        self.scales.rows.update(dict.fromkeys(self._with_gates(place.makers, "b"), of_rows))

    def _with_gates(self, names: Sequence[str], factor: str) -> list[str]:
        """The tensors, and that factor of what masked rows get on top of them."""
        gates = (f"{name.removesuffix('.weight')}{SUFFIXES[factor]}.weight" for name in names)
        return [*names, *(gate for gate in gates if gate in self.reference.file.tensors)]

    def _met(self, name: str) -> Met:
        num_rows = self.reference.file.tensors[name].shape[0]

        def peaks(first: int) -> NDArray[np.float32]:
            rows = self.reference.rows(name, first, min(_PEAK_ROWS, num_rows - first))
            return np.asarray(np.abs(rows).max(axis=0))

        found = in_order(peaks, range(0, num_rows, _PEAK_ROWS), self.reference.threads)
        firsts = range(0, num_rows, max(_PIECE_ROWS, num_rows // _PIECES))
        pieces = (self.reference.rows(name, at, min(_PIECE_ROWS, num_rows - at)) for at in firsts)
        rows = np.concatenate(list(pieces))
        return Met(rows, np.max(list(found), axis=0), self.layouts[name])


def _file_of(places: Sequence[Place]) -> str:
    return f"{places[0].matrices[0]}.scales.json"


def exponents_for(inputs: Moments, matrices: Sequence[Met], heads: tuple[int, int]) -> Exponents:
    """Of each input channel; `heads` are (groups, repeats): repeats share a group's channels."""
    weight_peaks = np.max([each.peaks for each in matrices], axis=0)
    choices = [np.zeros(len(weight_peaks), np.int32)]
    for strength in STRENGTHS:
        choices.append(_exponents(inputs.peaks, weight_peaks, strength, heads))
    costs = [_cost(inputs.sample, matrices, choice) for choice in choices]
    return choices[int(np.argmin(costs))]


def _exponents(
    inputs: NDArray[np.float32],
    weights: NDArray[np.float32],
    strength: float,
    heads: tuple[int, int],
) -> Exponents:
    shared = (_of_heads(each, heads) for each in (inputs, weights))
    large, wide = (np.log2(np.maximum(each, _TINY)) for each in shared)
    wanted = strength * large - (1 - strength) * wide
    rounded = np.rint(wanted - np.median(wanted)).clip(-_FARTHEST, _FARTHEST).astype(np.int32)
    groups, repeats = heads
    return np.repeat(rounded.reshape(groups, 1, -1), repeats, axis=1).reshape(-1)


def _of_heads(peaks: NDArray[np.float32], heads: tuple[int, int]) -> NDArray[np.float32]:
    peaks = peaks.reshape(*heads, -1).max(axis=1).reshape(-1)
    return np.asarray(peaks, np.float32)


def _cost(inputs: NDArray[np.float32], matrices: Sequence[Met], exponents: Exponents) -> float:
    """The squares that rounding inputs and weights adds to the outputs."""
    scaled = _to_int8(np.ldexp(inputs, -exponents))
    cost = 0.0
    for each in matrices:
        stored = read_back(np.ldexp(each.rows, exponents), each.layout)
        cost += float(np.square(scaled @ stored.T - inputs @ each.rows.T, dtype=np.float64).sum())
    return cost


def _to_int8(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the runtime makes of each row."""
    steps = np.abs(inputs).max(axis=1, keepdims=True) / np.float32(127)
    steps[steps == 0] = 1
    return np.asarray(np.rint(inputs / steps) * steps)

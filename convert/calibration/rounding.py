"""A model's matrices rounded with compensation, layer by layer, as its inputs become known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from convert.calibration.compensation import round_compensated
from convert.calibration.expert_inputs import ExpertInputs
from convert.calibration.moments import Moments
from convert.calibration.reference import Reference
from convert.calibration.smoothing import BEFORE_HEAD, IN_LAYER, Place, Smoothing
from convert.canvases import NoisyCanvas
from convert.parallel import in_order
from convert.plan import PlannedTensor
from convert.work_folder import WorkFolder

_ROWS = 512  # rounded at once; what they become does not depend on it
# int8 activations add this share of an input's energy as noise, at most, before bfloat16 is
# asked for. Normally distributed inputs get a tenth of it.
_MOST_NOISE = 1e-3
_NOISE = "noise.json"


@dataclass
class Rounding:
    """One pass over the layers; what `work` holds already is not done again."""

    reference: Reference
    canvases: Sequence[NoisyCanvas]
    tensors: Mapping[str, PlannedTensor]  # those to be compensated
    smoothing: Smoothing
    work: WorkFolder
    noise: dict[str, float] = field(default_factory=dict)  # of int8 inputs, by matrix

    def run(self, progress: Callable[[int, int], None]) -> None:
        """Leave the bytes of every tensor in the work folder, and the noise of their inputs."""
        self.noise = self.work.json(_NOISE) or {}
        reference, hidden = self.reference, self.reference.embedded(self.canvases)
        total = reference.num_layers + 1
        for layer in range(reference.num_layers):
            progress(layer, total)
            places = [place.within(f"blk.{layer}.") for place in IN_LAYER]
            names = reference.matrices_of(layer)
            if self._is_done(names, places):
                reference.run_layer(layer, self.canvases, hidden)
            else:
                self._round(reference.watch_layer(layer, self.canvases, hidden), places)
        progress(reference.num_layers, total)
        if not self._is_done([reference.head], BEFORE_HEAD):
            moments = {reference.head: reference.watch_head(self.canvases, hidden)}
            self._round(moments, BEFORE_HEAD)
        progress(total, total)

    def too_coarse_for_int8(self) -> list[str]:
        """Matrices whose inputs would lose too much, after `run`."""
        return [name for name, noise in self.noise.items() if noise > _MOST_NOISE]

    def _is_done(self, names: Iterable[str], places: Sequence[Place]) -> bool:
        chosen = filter(self.tensors.__contains__, names)
        are_kept = all(self.work.holds(name) and name in self.noise for name in chosen)
        return self.smoothing.recall(places) and are_kept

    def _round(
        self, moments: Mapping[str, Moments | ExpertInputs], places: Sequence[Place]
    ) -> None:
        self.smoothing.choose(places, moments)
        factors, made_of = [], None
        for name in filter(self.tensors.__contains__, moments):
            each = moments[name]
            if isinstance(each, ExpertInputs):
                rounded = self._rounded_experts(name, each)
            else:
                if each is not made_of:  # neighbours share their inputs
                    factors, made_of = each.factors(), each
                rounded = self._rounded(name, factors)
            self.work.keep(name, rounded)
            self.noise[name] = each.int8_noise
        self.work.keep_json(_NOISE, self.noise)

    def _rounded_experts(self, name: str, inputs: ExpertInputs) -> Iterator[NDArray[np.uint8]]:
        """Expert by expert, each with the factors of its own rows."""
        layout = self.tensors[name].layout
        num_experts, num_rows, _ = self.reference.file.tensors[name].shape

        def work(expert: int) -> NDArray[np.uint8]:
            values = self.reference.rows(name, expert * num_rows, num_rows)
            return round_compensated(values, layout, inputs.factors(expert))

        return in_order(work, range(num_experts), self.reference.threads)

    def _rounded(
        self, name: str, factors: Sequence[NDArray[np.float32]]
    ) -> Iterator[NDArray[np.uint8]]:
        layout = self.tensors[name].layout
        num_rows = self.reference.file.tensors[name].shape[0]

        def work(first: int) -> NDArray[np.uint8]:
            values = self.reference.rows(name, first, min(_ROWS, num_rows - first))
            values = self.smoothing.scales.apply(name, values, first)
            return round_compensated(values, layout, factors)

        return in_order(work, range(0, num_rows, _ROWS), self.reference.threads)

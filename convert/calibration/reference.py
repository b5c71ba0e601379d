"""The source as a model file without any loss, looked at layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert.calibration.expert_inputs import ExpertInputs, Pairs, of_layer
from convert.calibration.moments import Moments
from convert.canvases import NoisyCanvas
from convert.parallel import in_order
from edge import _native
from edge.backends.native import chosen_isa, native_errors, native_mask, native_shape
from edge.config import read_config
from edge.engine import attention_of
from edge.formats.gguf_file import header_of, open_model

Hidden = list[NDArray[np.float32]]  # of each canvas [rows, hidden_size]

# The matrices that share each of the inputs that `_native.run_layer` shows of all rows.
_ATTENTION = (
    ("attn_q.weight", "attn_k.weight", "attn_v.weight"),
    ("attn_output.weight",),
)
_DENSE = (("ffn_gate.weight", "ffn_up.weight"), ("ffn_down.weight",))
_SHARED = (("ffn_gate_shexp.weight", "ffn_up_shexp.weight"), ("ffn_down_shexp.weight",))
_EXPERTS = (("ffn_gate_exps.weight", "ffn_up_exps.weight"), ("ffn_down_exps.weight",))


class Reference:
    """Float weights mapped from `path`; int8 activations meet quantized replacements only."""

    def __init__(self, path: Path, threads: int) -> None:
        """Raises what `edge.load` raises."""
        self.path, self.threads = str(path), threads
        self.file = open_model(path)
        self.config = read_config(header_of(self.path, self.file))
        shape = native_shape(self.config.denoiser)
        with native_errors(self.path):
            self._denoiser = _native.Denoiser(
                self.file, shape, threads, "int8", "f32", chosen_isa()
            )

    @property
    def num_layers(self) -> int:
        """Layers of the network."""
        return self.config.denoiser.num_layers

    def matrices_of(self, layer: int) -> list[str]:
        """Names of a layer's matrices."""
        groups = (*self._sharing(layer), *(_EXPERTS if self._has_experts(layer) else ()))
        return [f"blk.{layer}.{name}" for names in groups for name in names]

    def _has_experts(self, layer: int) -> bool:
        experts = self.config.denoiser.experts
        return experts is not None and layer >= experts.num_dense_layers

    def _sharing(self, layer: int) -> tuple[tuple[str, ...], ...]:
        """Names of the matrices that all rows meet, by their inputs."""
        if not self._has_experts(layer):
            return _ATTENTION + _DENSE
        experts = self.config.denoiser.experts
        return _ATTENTION + (_SHARED if experts and experts.shared_size else ())

    @property
    def head(self) -> str:
        """The name of the head's matrix, which may be the embedding."""
        return "output.weight" if "output.weight" in self.file.tensors else "token_embd.weight"

    def rows(self, name: str, first: int, count: int) -> NDArray[np.float32]:
        """Rows of a tensor."""
        return self.file.read_rows(name, first, count)

    def embedded(self, canvases: Sequence[NoisyCanvas]) -> Hidden:
        """What enters the first layer."""
        with native_errors(self.path):
            return [_native.embedded(self._denoiser, canvas.ids) for canvas in canvases]

    def run_layer(self, layer: int, canvases: Sequence[NoisyCanvas], hidden: Hidden) -> None:
        """Change `hidden` from what enters a layer to what leaves it."""
        for number, canvas in enumerate(canvases):
            hidden[number], _, _ = self._run(layer, canvas, hidden[number], look=False)

    def watch_layer(
        self, layer: int, canvases: Sequence[NoisyCanvas], hidden: Hidden
    ) -> dict[str, Moments | ExpertInputs]:
        """The same, and the moments of what enters each matrix, by its name."""
        moments: list[Moments] = []
        routed: list[Pairs] = []
        normed: list[NDArray[np.float32]] = []
        sharing = self._sharing(layer)
        for number, canvas in enumerate(canvases):
            hidden[number], inputs, pairs = self._run(layer, canvas, hidden[number], look=True)
            if pairs is not None:
                normed.append(inputs[len(_ATTENTION)])
                routed.append(pairs)
            inputs = inputs[: len(sharing)]
            moments = moments or [Moments.of_columns(each.shape[1]) for each in inputs]
            added = zip(moments, inputs, strict=True)
            list(in_order(lambda pair: pair[0].add(pair[1]), added, self.threads))
        found: list[Moments | ExpertInputs] = [*moments]
        if routed:
            sharing += _EXPERTS
            found += of_layer(normed, routed)
        return {
            f"blk.{layer}.{name}": each
            for names, each in zip(sharing, found, strict=True)
            for name in names
        }

    def watch_head(self, canvases: Sequence[NoisyCanvas], hidden: Hidden) -> Moments:
        """The moments of what enters the head at the positions that are asked for."""
        moments = Moments.of_columns(self.config.denoiser.hidden_size)
        for canvas, rows in zip(canvases, hidden, strict=True):
            with native_errors(self.path):
                moments.add(_native.head_inputs(self._denoiser, rows[canvas.rows]))
        return moments

    def logits(
        self, canvases: Sequence[NoisyCanvas], hidden: Hidden
    ) -> Iterator[NDArray[np.float32]]:
        """Of each canvas the logits [asked positions, vocab] of what leaves the last layer."""
        for canvas, rows in zip(canvases, hidden, strict=True):
            with native_errors(self.path):
                yield _native.head_logits(self._denoiser, rows[canvas.rows])

    def replace(self, names: Sequence[str], file: _native.ModelFile | None = None) -> None:
        """Multiply by those matrices of `file` from now on; without one by the source's again."""
        for name in names:
            with native_errors(self.path):
                _native.replace_matrix(self._denoiser, name, file or self.file)

    def _run(
        self, layer: int, canvas: NoisyCanvas, hidden: NDArray[np.float32], look: bool
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]], Pairs | None]:
        gated = self.config.denoiser.gate_rank > 0
        mask = attention_of(self.config.diffusion, canvas.context_length, gated=gated)
        with native_errors(self.path):
            return _native.run_layer(self._denoiser, layer, hidden, native_mask(mask), look)

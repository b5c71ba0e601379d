"""Layers whose activations stay in float because the file says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy_twin
import pytest

import edge
from convert import convert
from edge import _native

IDS = np.arange(1, 38, dtype=np.int32) * 5 % 90
PATTERNS = (("*.attn_output.weight",), ("blk.1.attn_q.weight", "*.ffn_up.weight"), ("*",))
Denoisers = Callable[..., _native.Denoiser]


@pytest.mark.parametrize("patterns", PATTERNS)
@pytest.mark.parametrize("type", ["int8", "int4", "q8_0", "q4_0"])
def test_only_those_layers_take_float_activations(
    golden: Callable[[str], Path],
    denoiser: Denoisers,
    from_gguf: Callable[[Path], Any],
    tmp_path: Path,
    type: str,
    patterns: tuple[str, ...],
) -> None:
    path = tmp_path / "model.gguf"
    convert(golden("llada"), path, type, float_activations=patterns)
    net = from_gguf(path)
    wanted = numpy_twin.forward(net, IDS, numpy_twin.AsEngine(int8=True))
    for isa in _native.supported_isas():
        for threads in (1, 3):
            found = denoiser(path, isa=isa, threads=threads).logits(IDS)
            assert np.array_equal(found, wanted), (isa, threads)
    in_float = denoiser(path, activations="f32", kv="bf16").logits(IDS)
    assert np.array_equal(in_float, wanted) == (patterns == ("*",))


def test_nothing_is_quantized_where_no_layer_needs_it(
    golden: Callable[[str], Path], denoiser: Denoisers, step: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    convert(golden("llada"), path, "q8_0", float_activations=["*"])
    assert step(denoiser(path), IDS).quantize_ns == 0


def test_a_name_that_is_no_quantized_matrix_is_refused(
    golden: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    convert(golden("llada"), path, "q8_0", float_activations=["blk.1.attn_q.weight"])
    first, rest = path.read_bytes().split(b"blk.1.attn_q.weight", 1)
    path.write_bytes(first + b"blk.1.attn_z.weight" + rest)
    with pytest.raises(edge.ModelFileError, match=r"lists 'blk.1.attn_z.weight', which is no quan"):
        edge.load(path)

"""Layers that meet activations in bfloat16, not in int8, because the file says so."""

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
def test_only_those_layers_take_bf16_activations(
    golden: Callable[[str], Path],
    denoiser: Denoisers,
    from_gguf: Callable[[Path], Any],
    tmp_path: Path,
    type: str,
    patterns: tuple[str, ...],
) -> None:
    path = tmp_path / "model.gguf"
    convert(golden("llada"), path, type, bf16_activations=patterns)
    net = from_gguf(path)
    wanted = numpy_twin.forward(net, IDS, numpy_twin.AsEngine(int8=True))
    for isa in _native.supported_isas():
        for threads in (1, 3):
            found = denoiser(path, isa=isa, threads=threads).logits(IDS)
            assert np.array_equal(found, wanted), (isa, threads)


@pytest.mark.parametrize("type", ["int8", "int4", "q8_0", "q4_0"])
def test_they_are_nearer_to_float_than_int8(
    golden: Callable[[str], Path], denoiser: Denoisers, tmp_path: Path, type: str
) -> None:
    logits = {}
    for name, patterns in (("int8", ()), ("bf16", ("*",))):
        convert(golden("llada"), tmp_path / f"{name}.gguf", type, bf16_activations=patterns)
        logits[name] = denoiser(tmp_path / f"{name}.gguf", kv="f32").logits(IDS)
    exact = denoiser(tmp_path / "bf16.gguf", activations="f32", kv="f32").logits(IDS)
    errors = {name: np.abs(found - exact).mean() for name, found in logits.items()}
    assert 0 < errors["bf16"] < errors["int8"] / 2


def test_a_name_that_is_no_quantized_matrix_is_refused(
    golden: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    convert(golden("llada"), path, "q8_0", bf16_activations=["blk.1.attn_q.weight"])
    first, rest = path.read_bytes().split(b"blk.1.attn_q.weight", 1)
    path.write_bytes(first + b"blk.1.attn_z.weight" + rest)
    with pytest.raises(edge.ModelFileError, match=r"lists 'blk.1.attn_z.weight', which is no quan"):
        edge.load(path)

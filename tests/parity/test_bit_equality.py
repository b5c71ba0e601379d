"""Every instruction set and any number of threads give the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge import _native

# Float weights meet float activations whatever is asked for.
QUANTIZED = ("int8", "int4", "q8_0", "q4_0")
KINDS = [(type, "int8") for type in ("f32", "f16", "bf16", *QUANTIZED)]
KINDS += [(type, "f32") for type in QUANTIZED]


@pytest.mark.parametrize(("type", "activations"), KINDS)
@pytest.mark.parametrize("name", ["llada", "sudoku"])
def test_logits(
    golden: Callable[[str], Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    name: str,
    type: str,
    activations: str,
) -> None:
    path = converted(golden(name), type)
    ids = np.random.default_rng(3).integers(0, 10, 61).astype(np.int32)
    first = denoiser(path, activations=activations).logits(ids)
    for isa in _native.supported_isas():
        for threads in (1, 2, 4):
            again = denoiser(path, activations=activations, isa=isa, threads=threads).logits(ids)
            assert np.array_equal(first, again), (isa, threads)


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_the_named_isa_is_used(
    golden: Callable[[str], Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
    isa: str,
) -> None:
    assert denoiser(converted(golden("llada")), isa=isa).isa == isa

"""The native quantizers give ggml's bits; gguf.quants is the reference written by others."""

from __future__ import annotations

import gguf.quants
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge._native import dequantize, quantize

TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0"]


def weights(scale: float) -> st.SearchStrategy[np.ndarray]:
    """Rows of 32, 64 or 96 values up to `scale`, zeros of both signs among them."""
    shapes = st.tuples(st.integers(1, 3), st.sampled_from([32, 64, 96]))
    sizes = st.floats(-scale, scale, width=32, allow_subnormal=False)
    special = st.sampled_from([0.0, -0.0, scale, -scale])
    return hnp.arrays(np.float32, shapes, elements=sizes | special, fill=st.just(0.0))


def assert_same_bits(kind: str, values: np.ndarray) -> None:
    reference_type = GGMLQuantizationType[kind.upper()]
    expected = gguf.quants.quantize(values, reference_type).view(np.uint8)
    stored = quantize(kind, values)
    np.testing.assert_array_equal(stored, expected.reshape(len(values), -1))
    np.testing.assert_array_equal(
        dequantize(kind, stored, values.shape[1]),
        gguf.quants.dequantize(stored, reference_type).reshape(values.shape),
    )


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("scale", [2.0**-10, 1.0, 2.0**15])
def test_bits_equal_the_reference(kind: str, scale: float) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(weights(scale))
    def check(values: np.ndarray) -> None:
        assert_same_bits(kind, values)

    check()


@pytest.mark.parametrize("kind", TYPES)
def test_bits_of_many_normal_weights(kind: str) -> None:
    random = np.random.default_rng(3)
    assert_same_bits(kind, random.normal(0, 0.02, (500, 128)).astype(np.float32))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-38, 1e-9])
def test_tiny_groups_are_defined(kind: str, value: float) -> None:
    values = np.full((1, 32), value, np.float32)
    values[0, ::2] *= -1
    read = dequantize(kind, quantize(kind, values), 32)
    assert np.abs(read - values).max() <= max(abs(value), 2.0**-25)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_ragged_rows_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="group size does not divide"):
        quantize(kind, np.zeros((2, 33), np.float32))

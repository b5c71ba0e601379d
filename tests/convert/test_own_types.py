"""int8 and int4: the quantizers against numpy, the choices of a conversion, what foreigners see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import edge
from convert import convert as run
from edge._native import dequantize, quantize
from edge.errors import RequestError
from edge.formats.gguf_file import open_model

Make = Callable[..., Any]  # conftest.folder
Golden = Callable[[str], Path]
Values = NDArray[Any]
KINDS = [
    ("int8", 0, False),
    ("int8", 128, False),
    ("int8", 32, False),
    ("int4", 128, False),
    ("int4", 128, True),
    ("int4", 64, True),
    ("int4", 32, False),
]


def halves(values: Values) -> tuple[Values, Values]:
    """As fp16 bytes [..., 2], and their values."""
    half = values.astype(np.float32).astype(np.float16)
    return half[..., None].view(np.uint8), half.astype(np.float64)


def nearest(values: Values, scale: Values, low: int, high: int) -> Values:
    multiples = np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)
    return np.rint(np.clip(multiples, low, high))


def in_order(values: Values) -> Values:
    """Sums over the last axis, one value after the other."""
    return np.add.accumulate(values, axis=-1)[..., -1:]


def best_of_nine(fit: Callable[[int], tuple[Values, Values, Values]]) -> tuple[Values, Values]:
    """Scale and offset of the try that explains most, the first among equals."""
    tries = [fit(i) for i in range(9)]
    best = np.argmax([explained for _, _, explained in tries], axis=0)
    scales, offsets = (np.choose(best, [made[i] for made in tries]) for i in (0, 1))
    return scales, offsets


def scale_alone(x: Values) -> tuple[Values, Values]:
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=-1, keepdims=True), axis=-1)

    def fit(i: int) -> tuple[Values, Values, Values]:
        q = np.rint(np.clip(x * ((-6.0 - 0.4 * i) / extreme), -8, 7))
        dot, squares = in_order(x * q), in_order(q * q)
        return dot / squares, np.zeros_like(dot), dot * dot / squares

    with np.errstate(all="ignore"):
        scale, offset = best_of_nine(fit)
    return np.where(extreme == 0, 0.0, scale), offset


def scale_and_offset(x: Values) -> tuple[Values, Values]:
    low, high = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    count = x.shape[-1]

    def fit(i: int) -> tuple[Values, Values, Values]:
        step = (high - low) / (15.0 + 0.5 * i)
        q = np.rint(np.clip((x - ((high + low) / 2 - 7.5 * step)) / step, 0, 15))
        sum_x, sum_q, dot, squares = map(in_order, (x, q, x * q, q * q))
        scale = (count * dot - sum_x * sum_q) / (count * squares - sum_q * sum_q)
        offset = (sum_x - scale * sum_q) / count
        return scale, offset, scale * dot + offset * sum_x

    with np.errstate(all="ignore"):
        scale, offset = best_of_nine(fit)
    return np.where(low == high, 0.0, scale), np.where(low == high, low, offset)


def quantized(kind: str, values: NDArray[np.float32], group: int, has_minima: bool) -> Values:
    """The reference: rows of bytes."""
    rows, cols = values.shape
    x = values.reshape(rows, -1, group or cols).astype(np.float64)
    if kind == "int8":
        scale_bytes, scale = halves(np.abs(x).max(axis=-1) / 127.0)
        whole = nearest(x, scale[..., None], -127, 127).astype(np.int8).view(np.uint8)
        return np.concatenate([scale_bytes, whole], axis=-1).reshape(rows, -1)
    scales, offsets = scale_and_offset(x) if has_minima else scale_alone(x)
    parts, scale = halves(scales[..., 0])
    if has_minima:
        minimum_bytes, minimum = halves(0.0 - offsets[..., 0])
        parts = np.concatenate([parts, minimum_bytes], axis=-1)
        whole = nearest(x + minimum[..., None], scale[..., None], 0, 15)
    else:
        whole = nearest(x, scale[..., None], -8, 7) + 8
    runs = whole.astype(np.uint8).reshape(*whole.shape[:2], -1, 2, 16)
    nibbles = (runs[..., 0, :] | runs[..., 1, :] << 4).reshape(*whole.shape[:2], -1)
    return np.concatenate([parts, nibbles], axis=-1).reshape(rows, -1)


def weights(scale: float) -> st.SearchStrategy[NDArray[np.float32]]:
    sizes = st.floats(-scale, scale, width=32)
    special = st.sampled_from([0.0, -0.0, scale, -scale])
    elements = sizes | special
    return hnp.arrays(np.float32, st.just((2, 256)), elements=elements, fill=st.just(0.0))


@pytest.mark.parametrize(("kind", "group", "has_minima"), KINDS)
@pytest.mark.parametrize("scale", [2.0**-24, 1.0, 2.0**14])
def test_bits_equal_the_reference(kind: str, group: int, has_minima: bool, scale: float) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(weights(scale))
    def check(values: NDArray[np.float32]) -> None:
        stored = quantize(kind, values, group, has_minima)
        np.testing.assert_array_equal(stored, quantized(kind, values, group, has_minima))

    check()


@pytest.mark.parametrize(("kind", "group", "has_minima"), KINDS)
def test_many_normal_weights(kind: str, group: int, has_minima: bool) -> None:
    values = np.random.default_rng(3).normal(0, 0.02, (300, 384)).astype(np.float32)
    stored = quantize(kind, values, group, has_minima)
    np.testing.assert_array_equal(stored, quantized(kind, values, group, has_minima))
    bound = 0.011 if kind == "int8" else 0.101  # of the root mean square
    error = dequantize(kind, stored, 384, group, has_minima) - values
    assert np.sqrt((error**2).mean()) < bound * 0.02


@pytest.mark.parametrize(("kind", "group", "has_minima"), KINDS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-38, 1e-9])
def test_tiny_groups_are_defined(kind: str, group: int, has_minima: bool, value: float) -> None:
    values = np.full((1, 128), value, np.float32)
    values[0, ::2] *= -1
    read = dequantize(kind, quantize(kind, values, group, has_minima), 128, group, has_minima)
    assert np.abs(read - values).max() <= max(abs(value), 2.0**-25)


@pytest.mark.parametrize(
    ("kind", "cols", "group", "has_minima"),
    [
        ("int4", 48, 0, True),
        ("int4", 96, 64, True),
        ("int4", 256, 256, True),
        ("int4", 128, 16, False),
        ("int8", 48, 0, False),
        ("int8", 64, 0, True),
        ("int8", 256, 96, False),
        ("int8", 32 * 4129, 0, False),  # a sum of its products might not fit 32 bits
    ],
)
def test_what_no_kernel_takes_is_refused(
    kind: str, cols: int, group: int, has_minima: bool
) -> None:
    with pytest.raises(ValueError, match="group size does not divide"):
        quantize(kind, np.zeros((1, cols), np.float32), group, has_minima)


def test_ggml_types_have_no_choices() -> None:
    with pytest.raises(ValueError, match="no choices"):
        quantize("q8_0", np.zeros((1, 64), np.float32), 32)


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"type": "int4"}, {(32, False)}),
        ({"type": "int4", "group_size": 128, "minima": True}, {(128, True), (32, True)}),
        ({"type": "int4", "group_size": 64, "minima": False}, {(64, False), (32, False)}),
        ({"type": "int8"}, {(128, False), (352, False)}),
        ({"type": "int8", "group_size": 128}, {(128, False), (32, False)}),
    ],
)
def test_groups_are_the_largest_that_divide(
    golden: Golden, tmp_path: Path, options: dict[str, Any], groups: set[tuple[int, bool]]
) -> None:
    source = golden("sudoku")
    report = run(source, tmp_path / "out.gguf", method="nearest", **options)
    file = open_model(tmp_path / "out.gguf")
    own = [tensor for tensor in file.tensors.values() if tensor.type == options["type"]]
    assert {(tensor.group_size, tensor.has_minima) for tensor in own} == groups
    assert {(t.group_size, t.has_minima) for t in report.tensors if t.group_size} == groups
    dry = run(source, tmp_path / "x.gguf", method="nearest", dry_run=True, **options)
    assert (dry.bits_per_weight, dry.tensor_bytes) == (report.bits_per_weight, report.tensor_bytes)
    assert [t.group_size for t in dry.tensors] == [t.group_size for t in report.tensors]
    ids = np.zeros(81, np.int32)
    with edge.load(tmp_path / "out.gguf", threads=1) as model:
        assert np.isfinite(model.logits(ids)).all()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_an_inspection_counts_weights(golden: Golden, tmp_path: Path, kind: str) -> None:
    source = golden("sudoku")
    run(source, tmp_path / "own.gguf", kind, method="nearest")
    run(source, tmp_path / "f32.gguf", "f32")
    own, plain = edge.inspect(tmp_path / "own.gguf"), edge.inspect(tmp_path / "f32.gguf")
    assert own.num_parameters == plain.num_parameters
    assert own.types.keys() == {kind, "f32"}
    stored_bytes = sum(size for _, size in own.types.values())
    assert own.bits_per_weight == pytest.approx(8 * stored_bytes / plain.num_parameters)
    assert own.bits_per_weight < {"int8": 8.5, "int4": 5.0}[kind]


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_foreign_readers_miss_the_tensors(golden: Golden, tmp_path: Path, kind: str) -> None:
    run(golden("llada"), tmp_path / "out.gguf", kind, method="nearest")
    names = {tensor.name for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    ours = {
        tensor.name: tensor.type for tensor in open_model(tmp_path / "out.gguf").tensors.values()
    }
    hidden = {name for name, type in ours.items() if type == kind}
    assert len(hidden) == 20
    assert not names & hidden
    assert {name for name in names if ".edge_" in name} == {f"{n}.edge_{kind}" for n in hidden}


@pytest.mark.parametrize(("kind", "group", "has_minima"), KINDS)
def test_tensors_of_more_dimensions(
    tmp_path: Path, kind: str, group: int, has_minima: bool
) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 256)).astype(np.float32)
    rows = values.reshape(6, 256)
    stored = quantize(kind, rows, group, has_minima)
    writer = GGUFWriter(tmp_path / "out.gguf", "anything")
    name = f"experts.edge_{kind}"
    writer.add_tensor(name, stored.view(np.int8).reshape(2, 3, -1))
    writer.add_array("edge.tensor.names", [name])
    writer.add_array("edge.tensor.has_minima", [has_minima])
    for key, value in {"cols": 256, "group_size": group or 256}.items():
        uint32 = GGUFValueType.UINT32
        writer.add_key_value(f"edge.tensor.{key}", [value], GGUFValueType.ARRAY, uint32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_model(tmp_path / "out.gguf")
    assert (tuple(file.tensors["experts"].shape), file.tensors["experts"].type) == (
        (2, 3, 256),
        kind,
    )
    read = file.read_rows("experts", 0, 6)
    np.testing.assert_array_equal(read, dequantize(kind, stored, 256, group, has_minima))


@pytest.mark.llama
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_llama_cpp_refuses_the_file(
    golden: Golden, llama_cpp: ModuleType, tmp_path: Path, kind: str
) -> None:
    run(golden("llada"), tmp_path / "out.gguf", kind, method="nearest")
    options = llama_cpp.llama_model_default_params()
    assert not llama_cpp.llama_model_load_from_file(str(tmp_path / "out.gguf").encode(), options)


@pytest.mark.parametrize("head", ["tied", "untied"])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_embedding_and_head(folder: Make, tmp_path: Path, kind: str, head: str) -> None:
    made = folder(weight_tying=head == "tied")
    if head == "tied":
        del made.tensors["model.transformer.ff_out.weight"]
    run(made.write(), tmp_path / "out.gguf", kind, method="nearest")
    info = edge.inspect(tmp_path / "out.gguf")
    tensors = open_model(tmp_path / "out.gguf").tensors
    assert tensors["token_embd.weight"].type == kind
    assert ("output.weight" in tensors) == (head == "untied")
    with edge.load(tmp_path / "out.gguf", threads=1) as model:
        logits = model.logits([0, 1, 2])
    assert logits.shape == (3, info.config.denoiser.vocab_size)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"type": "q8_0", "group_size": 64}, "q8_0 has groups of its own"),
        ({"type": "int8", "minima": True}, "int8 has no choice of minima"),
        ({"type": "int4", "group_size": 48}, "a group size of 48"),
    ],
)
def test_choices_that_cannot_be(
    golden: Golden, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RequestError, match=reason):
        run(golden("llada"), tmp_path / "out.gguf", **options)

"""Types of public files that the converter does not write: read exactly, repacked exactly.

A block's whole numbers, scales and minima are found with the gguf package's own reader, by
setting everything else in the block to one or zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy_twin
import pytest
from numpy.typing import NDArray

from edge import _native
from edge.config import read_config
from edge.formats.gguf_file import read_header

Blocks = NDArray[np.uint8]  # [rows, blocks, bytes]
HIDDEN, VOCAB, LAYERS, MASK = 256, 48, 2, 47
ONE = np.frombuffer(np.float16(1).tobytes(), np.uint8)


@dataclass(frozen=True)
class Kind:
    """Where a type's block keeps what; ``unit`` are bytes of whole numbers that all are one."""

    group: int
    halves: tuple[int, ...]  # offsets of the fp16 numbers: scale, then minimum
    whole: slice  # bytes of the whole numbers
    unit: tuple[tuple[slice, int], ...]
    fine: tuple[tuple[slice, int], ...] = ()  # bytes of the group scales, and what makes them one

    @property
    def has_minima(self) -> bool:
        return len(self.halves) > 1


ONE_SCALE = ((slice(4, 8), 1), (slice(8, 12), 0), (slice(12, 16), 1))  # and no minimum
KINDS = {
    "q8_0": Kind(32, (0,), slice(2, 34), ((slice(2, 34), 1),)),
    "q4_0": Kind(32, (0,), slice(2, 18), ((slice(2, 18), 0x99),)),
    "q4_1": Kind(32, (0, 2), slice(4, 20), ((slice(4, 20), 0x11),)),
    "q5_0": Kind(32, (0,), slice(2, 22), ((slice(2, 6), 0xFF), (slice(6, 22), 0x11))),
    "q5_1": Kind(32, (0, 2), slice(4, 24), ((slice(4, 8), 0), (slice(8, 24), 0x11))),
    "q4_k": Kind(32, (0, 2), slice(16, 144), ((slice(16, 144), 0x11),), ONE_SCALE),
    "q5_k": Kind(
        32, (0, 2), slice(16, 176), ((slice(16, 48), 0), (slice(48, 176), 0x11)), ONE_SCALE
    ),
    "q6_k": Kind(
        16,
        (208,),
        slice(0, 192),
        ((slice(0, 128), 0x11), (slice(128, 192), 0xAA)),
        ((slice(192, 208), 1),),
    ),
}


def ggml_type(kind: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[kind.upper()]


def random_blocks(kind: str, rows: int, cols: int, seed: int = 0) -> Blocks:
    """Every bit at random but those of the fp16 numbers, which are small."""
    chance = np.random.default_rng(seed)
    block, size = gguf.GGML_QUANT_SIZES[ggml_type(kind)]
    blocks = chance.integers(0, 256, (rows, cols // block, size), np.uint8)
    width = {"q8_0": 127, "q4_0": 8, "q4_1": 8, "q5_0": 16, "q5_1": 16}.get(kind, 16 * 32)
    for at in KINDS[kind].halves:
        halves = chance.uniform(0.5, 1.5, blocks.shape[:2]) / width / np.sqrt(cols)
        blocks[..., at : at + 2] = halves.astype(np.float16)[..., None].view(np.uint8)
    return blocks


def read_by_gguf(kind: str, blocks: Blocks) -> NDArray[np.float32]:
    flat = blocks.reshape(len(blocks), -1)
    values: NDArray[np.float32] = gguf.quants.dequantize(flat, ggml_type(kind))
    return values


def taken_apart(kind: str, blocks: Blocks) -> Any:
    """The twin's matrix of some blocks."""
    layout = KINDS[kind]

    def with_(*changes: tuple[slice, int]) -> Blocks:
        changed = blocks.copy()
        for where, value in changes:
            changed[..., where] = value
        return changed

    def per_group(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values.reshape(len(values), -1, layout.group)[..., 0]

    plain = with_(*layout.fine)
    for at, value in zip(layout.halves, (ONE, ONE * 0), strict=False):
        plain[..., at : at + 2] = value
    whole = read_by_gguf(kind, plain).astype(np.int8)
    scaled = with_(*layout.unit)
    for at in layout.halves[1:]:
        scaled[..., at : at + 2] = 0
    scales = per_group(read_by_gguf(kind, scaled))
    if not layout.has_minima:
        return numpy_twin.Quantized(whole, scales)
    return numpy_twin.Quantized(
        whole, scales, -per_group(read_by_gguf(kind, with_((layout.whole, 0))))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_reading(kind: str) -> None:
    blocks = random_blocks(kind, 64, 512)
    ours = _native.dequantize(kind, blocks.reshape(64, -1), 512)
    np.testing.assert_array_equal(ours, read_by_gguf(kind, blocks))


@pytest.mark.parametrize("kind", KINDS)
def test_taken_apart_and_put_together(
    kind: str,
) -> None:
    blocks = random_blocks(kind, 8, 512)
    np.testing.assert_array_equal(taken_apart(kind, blocks).values(), read_by_gguf(kind, blocks))


@dataclass(frozen=True)
class Written:
    path: Path
    network: Any


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Written]:
    """``written("q4_k", "q6_k")``: a random llada file, some matrices of the second type."""

    def make(kind: str, other: str) -> Written:
        path = tmp_path_factory.mktemp("foreign") / "model.gguf"
        writer = gguf.GGUFWriter(path, "llada")
        for name, value in SIZES.items():
            writer.add_uint32(f"llada.{name}", value)
        writer.add_float32("llada.attention.layer_norm_rms_epsilon", 1e-5)
        writer.add_uint32("tokenizer.ggml.mask_token_id", MASK)
        weights: dict[str, Any] = {}
        for number, (name, rows) in enumerate(matrices()):
            used = other if name.endswith(("attn_v.weight", "ffn_down.weight")) else kind
            used = other if name == "output.weight" else used
            blocks = random_blocks(used, rows, HIDDEN, number)
            writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=ggml_type(used))
            weights[name] = taken_apart(used, blocks)
        for name in norms():
            weights[name] = np.ones(HIDDEN, np.float32)
            writer.add_tensor(name, weights[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Written(path, network(path, weights))

    return make


SIZES = {
    "context_length": 64,
    "embedding_length": HIDDEN,
    "block_count": LAYERS,
    "feed_forward_length": HIDDEN,
    "attention.head_count": 4,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "vocab_size": VOCAB,
}


def matrices() -> list[tuple[str, int]]:
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    inner = [(f"blk.{i}.{name}.weight", HIDDEN) for i in range(LAYERS) for name in names]
    return [("token_embd.weight", VOCAB), *inner, ("output.weight", VOCAB)]


def norms() -> list[str]:
    inner = [f"blk.{i}.{n}_norm.weight" for i in range(LAYERS) for n in ("attn", "ffn")]
    return [*inner, "output_norm.weight"]


def network(path: Path, weights: dict[str, Any]) -> Any:
    config = read_config(read_header(path)).denoiser
    return numpy_twin.Network(
        num_layers=LAYERS,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        rope_pairs=config.rope_pairs,
        weights=weights,
    )


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("q4_k", "q6_k"),
        ("q5_k", "q6_k"),
        ("q6_k", "q6_k"),
        ("q4_0", "q6_k"),
        ("q4_1", "q5_0"),
        ("q5_1", "q8_0"),
        ("q8_0", "q4_1"),
    ],
)
@pytest.mark.parametrize("activations", ["int8", "f32"])
def test_logits_are_the_twin_s_bit_for_bit(
    written: Callable[[str, str], Written],
    denoiser: Callable[..., _native.Denoiser],
    kind: str,
    other: str,
    activations: str,
) -> None:
    made = written(kind, other)
    ids = np.random.default_rng(5).integers(0, VOCAB, 21).astype(np.int32)
    wanted = numpy_twin.forward(made.network, ids, numpy_twin.AsEngine(int8=activations == "int8"))
    assert np.abs(wanted).max() > 0.1
    for isa in _native.supported_isas():
        for threads in (1, 2, 4):
            found = denoiser(made.path, activations=activations, isa=isa, threads=threads)
            np.testing.assert_array_equal(found.logits(ids), wanted, f"{isa} {threads}")


@pytest.mark.parametrize("kind", ["q2_k", "q3_k", "q8_1", "q8_k"])
def test_types_that_nobody_reads_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ValueError, match=kind):
        _native.dequantize(kind, np.zeros((1, 1), np.uint8), 256)

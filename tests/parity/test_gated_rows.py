"""Rows with an adapter of their own beside rows that run the plain weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated_model import MASK, Gated
from numpy.typing import NDArray

from convert import convert
from edge import _native

TYPES = ("f32", "f16", "bf16", "int8", "int4", "q8_0", "q4_0")
# Between weights as stored and float64 on the checkpoint's; activations are int8, too.
BOUNDS = {"f32": 1e-4, "f16": 0.02, "bf16": 0.15}
IDS = np.array([3, 7, 1, 30, 2, 9, MASK, 5, MASK, MASK, MASK], np.int32)
GATED = np.array([8, 9, 10], np.int32)  # a mask token in the text is a token like others
MASKED = np.isin(np.arange(len(IDS)), GATED)
CAUSAL = _native.AttentionMask("causal")

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

Make = Callable[..., Path]
Denoise = Callable[..., _native.Denoiser]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """``files("int8", rank=32)``: a file with an adapter; ``plain=True``: the same without."""
    made: dict[Any, Path] = {}

    def make(type: str = "f32", *, plain: bool = False, **shape: Any) -> Path:
        key = (type, plain, *sorted(shape.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("gated")
            base, adapter = Gated.random(**shape).write(folder)
            made[key] = folder / "model.gguf"
            own: dict[str, Any] = {"gated_adapter": adapter}
            if plain:
                settings = {"diffusion.attention": "causal_context"}
                own = {"mask_token_id": MASK, "overrides": settings}
            convert(base, made[key], type, method="nearest", **own)
        return made[key]

    return make


def logits(denoiser: _native.Denoiser, gated: NDArray[np.int32] = GATED) -> NDArray[np.float32]:
    return denoiser.logits(IDS, CAUSAL, gated)


def as_stored(path: Path, rank: int) -> Gated:
    """The checkpoint with the weights that the file holds."""
    gated, file = Gated.random(rank=rank), _native.ModelFile(str(path))

    def values(name: str) -> NDArray[np.float32]:
        return file.read_rows(name, 0, file.tensors[name].shape[0])

    gated.tensors["model.embed_tokens.weight"] = values("token_embd.weight")
    for module in gated.a:
        layer, part = module.removeprefix("model.layers.").split(".", 1)
        target = f"blk.{layer}.{NAMES[part]}"
        gated.tensors[f"{module}.weight"] = values(f"{target}.weight")
        gated.a[module] = values(f"{target}.gate_a.weight")
        gated.b[module] = values(f"{target}.gate_b.weight") / gated.scale
    return gated


@pytest.mark.parametrize("rank", [1, 4, 32, 37])
@pytest.mark.parametrize("type", BOUNDS)
def test_float_files_equal_the_formulas(
    files: Make, denoiser: Denoise, type: str, rank: int
) -> None:
    wanted = Gated.random(rank=rank).logits(IDS, MASKED)
    found = logits(denoiser(files(type, rank=rank)))
    assert np.abs(found - wanted).max() < BOUNDS[type] * np.abs(wanted).max()


@pytest.mark.parametrize("rank", [4, 32])
@pytest.mark.parametrize("type", TYPES[3:])
def test_quantized_files_equal_the_formulas_on_their_own_weights(
    files: Make, denoiser: Denoise, type: str, rank: int
) -> None:
    path = files(type, rank=rank)
    wanted = as_stored(path, rank).logits(IDS, MASKED)
    plain = logits(denoiser(path, activations="f32"))
    assert np.abs(plain - wanted).max() < 1e-3 * np.abs(wanted).max()
    found = logits(denoiser(path))
    assert np.corrcoef(found[MASKED].ravel(), wanted[MASKED].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("type", TYPES)
def test_plain_rows_are_those_of_the_plain_model(files: Make, denoiser: Denoise, type: str) -> None:
    alone = denoiser(files(type, plain=True)).logits(IDS, CAUSAL)
    beside = denoiser(files(type))
    assert np.array_equal(logits(beside, np.empty(0, np.int32)), alone)
    assert np.array_equal(logits(beside)[:8], alone[:8])
    assert not np.array_equal(logits(beside)[8:], alone[8:])


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("type", TYPES)
def test_bits_are_equal_everywhere(
    files: Make, denoiser: Denoise, type: str, activations: str
) -> None:
    path = files(type, rank=32)
    first = logits(denoiser(path, activations=activations))
    for isa in _native.supported_isas():
        for threads in (1, 2, 4):
            engine = denoiser(path, activations=activations, isa=isa, threads=threads)
            assert np.array_equal(first, logits(engine)), (isa, threads)


@pytest.mark.parametrize("kv", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("type", ["f32", "int8", "q4_0"])
def test_a_cached_context_gives_the_same_bits(
    files: Make,
    denoiser: Denoise,
    step: Callable[..., Any],
    head_fields: Callable[..., Any],
    type: str,
    kv: str,
) -> None:
    engine = denoiser(files(type, rank=32), kv=kv)
    rows = range(len(IDS))
    whole = head_fields(step(engine, IDS, gated_rows=GATED, mask=CAUSAL))
    for split in (1, 5, 8):
        cache = _native.KvCache(engine, 40)
        step(engine, IDS[:split], head_rows=[], cache=cache, store=True, mask=CAUSAL)
        beyond = step(
            engine,
            IDS[split:],
            rows[split:],
            gated_rows=GATED - split,
            cache=cache,
            store=split < 8,
            num_stored=8 - split if split < 8 else 0,
            mask=CAUSAL,
        )
        for name, values in head_fields(beyond).items():
            assert np.array_equal(values, whole[name][split:]), (split, name)
        assert np.flatnonzero(cache.valid()).tolist() == list(range(8))


def test_steps_that_cannot_be(files: Make, denoiser: Denoise, step: Callable[..., Any]) -> None:
    engine = denoiser(files())
    cache = _native.KvCache(engine, 40)
    for rows, options in (
        ([11], {}),
        ([3, 3], {}),
        ([-1], {}),
        ([8], {"cache": cache, "store": True}),
        ([8], {"cache": cache, "store": True, "num_stored": 9}),
        ([8], {"guidance_ids": IDS, "guidance_scale": 1.0}),
    ):
        with pytest.raises(ValueError, match="gated"):
            step(engine, IDS, gated_rows=np.array(rows, np.int32), mask=CAUSAL, **options)
    with pytest.raises(ValueError, match="gates no rows"):
        step(denoiser(files(plain=True)), IDS, gated_rows=GATED, mask=CAUSAL)

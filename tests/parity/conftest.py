"""Networks for the numpy twin, random checkpoints, and the native denoiser by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy_twin
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edge import _native
from edge.backends.native import native_shape
from edge.config import read_config
from edge.formats.gguf_file import read_header

_CONFIG: dict[str, Any] = {
    "architectures": ["LLaDAModelLM"],
    "d_model": 64,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 2,
    "mlp_hidden_size": 96,
    "vocab_size": 40,
    "max_sequence_length": 128,
    "rope": True,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "block_type": "llama",
    "weight_tying": False,
    "mask_token_id": 39,
    "eos_token_id": 38,
}
_ROOT = "model.transformer."
_SOURCE_NAMES = {
    "attn_norm": "attn_norm",
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "attn_out",
    "ffn_norm": "ff_norm",
    "ffn_gate": "ff_proj",
    "ffn_up": "up_proj",
    "ffn_down": "ff_out",
}


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, wide = config["d_model"], config["mlp_hidden_size"]
    kv_width = hidden // config["n_heads"] * config["n_kv_heads"]
    rows = config.get("embedding_size", config["vocab_size"])
    shapes: dict[str, tuple[int, ...]] = {"wte": (rows, hidden), "ln_f": (hidden,)}
    if not config["weight_tying"]:
        shapes["ff_out"] = (rows, hidden)
    if config.get("learned_position_table"):
        shapes["wpe"] = (config["max_sequence_length"], hidden)
    block = {
        "attn_norm": (hidden,),
        "ff_norm": (hidden,),
        "q_proj": (hidden, hidden),
        "k_proj": (kv_width, hidden),
        "v_proj": (kv_width, hidden),
        "attn_out": (hidden, hidden),
        "ff_proj": (wide, hidden),
        "up_proj": (wide, hidden),
        "ff_out": (hidden, wide),
    }
    for layer in range(config["n_layers"]):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def _random_tensors(config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(7)
    tensors = {}
    for name, shape in _shapes(config).items():
        values = random.normal(0, 1, shape)
        is_norm = len(shape) == 1
        scaled = 1 + 0.2 * values if is_norm else 1.5 * values / np.sqrt(shape[1])
        tensors[f"{_ROOT}{name}.weight"] = scaled.astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``checkpoint(n_kv_heads=2)``: the folder of a random LLaDA checkpoint of that config."""
    folders: dict[str, Path] = {}

    def make(**changes: Any) -> Path:
        config = _CONFIG | changes
        text = json.dumps(config)
        if text not in folders:
            folders[text] = tmp_path_factory.mktemp("checkpoint")
            (folders[text] / "config.json").write_text(text)
            save_file(_random_tensors(config), folders[text] / "model.safetensors")
        return folders[text]

    return make


@pytest.fixture(scope="session")
def from_checkpoint() -> Callable[[Path], Any]:
    """The twin's network of a checkpoint folder: half-split rotation, float weights."""

    def read(folder: Path) -> Any:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        weights = {
            f"blk.{layer}.{target}.weight": tensors[f"{_ROOT}blocks.{layer}.{source}.weight"]
            for layer in range(config["n_layers"])
            for target, source in _SOURCE_NAMES.items()
        }
        tops = {"token_embd": "wte", "output_norm": "ln_f", "output": "ff_out"}
        for target, source in (tops | {"position_embd": "wpe"}).items():
            if (name := f"{_ROOT}{source}.weight") in tensors:
                weights[f"{target}.weight"] = tensors[name]
        return numpy_twin.Network(
            num_layers=config["n_layers"],
            num_heads=config["n_heads"],
            num_kv_heads=config["n_kv_heads"],
            head_dim=config["d_model"] // config["n_heads"],
            eps=config["rms_norm_eps"],
            rope_theta=config["rope_theta"],
            rope_pairs="halves",
            weights=weights,
        )

    return read


@pytest.fixture(scope="session")
def from_gguf() -> Callable[[Path], Any]:
    """The twin's network of a model file, read by the gguf package."""

    def read(path: Path) -> Any:
        reader = gguf.GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()

        def key(name: str) -> Any:
            return reader.fields[f"{architecture}.{name}"].contents()

        return numpy_twin.Network(
            num_layers=key("block_count"),
            num_heads=key("attention.head_count"),
            num_kv_heads=key("attention.head_count_kv"),
            head_dim=key("attention.key_length"),
            eps=key("attention.layer_norm_rms_epsilon"),
            rope_theta=key("rope.freq_base"),
            rope_pairs={"llada": "adjacent", "edge-llama": "halves"}[architecture],
            weights={name.split(".edge_")[0]: held for name, held in _matrices(reader)},
        )

    return read


def _matrices(reader: gguf.GGUFReader) -> Iterator[tuple[str, Any]]:
    field = reader.fields.get("edge.activations.bf16")
    stay_float = field.contents() if field else []
    for tensor in reader.tensors:
        own = tensor.tensor_type == gguf.GGMLQuantizationType.I8
        held = _own_matrix(reader, tensor) if own else _matrix(tensor)
        if tensor.name.split(".edge_")[0] in stay_float:
            held = replace(held, bf16_activations=True)
        yield tensor.name, held


def _own_matrix(reader: gguf.GGUFReader, tensor: gguf.ReaderTensor) -> Any:
    """int8 or int4, from what groups.py says of the bytes."""
    own = {key: reader.fields[f"edge.tensor.{key}"].contents() for key in OWN_KEYS}
    index = own["names"].index(tensor.name)
    cols, group, has_minima = (own[key][index] for key in OWN_KEYS[1:])
    groups = tensor.data.view(np.uint8).reshape(len(tensor.data), cols // group, -1)
    num_halves = 2 if has_minima else 1
    halves = groups[..., : 2 * num_halves].copy().view(np.float16).astype(np.float32)
    stored = groups[..., 2 * num_halves :]
    if tensor.name.endswith("int8"):
        whole = stored.view(np.int8)
    else:
        runs = stored.reshape(*stored.shape[:2], group // 32, 16)
        whole = np.concatenate([runs & 15, runs >> 4], axis=-1).astype(np.int8)
        whole = whole if has_minima else whole - np.int8(8)
    minima = halves[..., 1] if has_minima else None
    return numpy_twin.Quantized(whole.reshape(-1, cols), halves[..., 0], minima)


OWN_KEYS = ("names", "cols", "group_size", "has_minima")


def _matrix(tensor: gguf.ReaderTensor) -> Any:
    kind = tensor.tensor_type
    if kind not in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0):
        return gguf.quants.dequantize(tensor.data, kind).astype(np.float32)
    rows = tensor.data.shape[0]
    groups = tensor.data.reshape(rows, -1, 34 if kind == gguf.GGMLQuantizationType.Q8_0 else 18)
    scales = groups[..., :2].copy().view(np.float16)[..., 0].astype(np.float32)
    stored = groups[..., 2:]
    if kind == gguf.GGMLQuantizationType.Q8_0:
        whole = stored.view(np.int8)
    else:
        whole = np.concatenate([stored & 15, stored >> 4], axis=-1).astype(np.int8) - np.int8(8)
    return numpy_twin.Quantized(whole.reshape(rows, -1), scales)


@pytest.fixture(scope="session")
def denoiser() -> Callable[..., _native.Denoiser]:
    """``denoiser(path, threads=2, activations="f32", isa="avx2")``: the engine, nothing else."""

    def make(path: Path, **options: Any) -> _native.Denoiser:
        shape = native_shape(read_config(read_header(path)).denoiser)
        options = {"threads": 1, **options}
        return _native.Denoiser(_native.ModelFile(str(path)), shape, **options)

    return make


FIELDS = ("top1", "top1_logit", "top2_logit", "log_z", "entropy", "sampled", "sampled_logit")


@pytest.fixture(scope="session")
def step() -> Callable[..., _native.StepOutput]:
    """``step(denoiser, ids, positions, head_rows, ...)``; by default all rows from position 0."""

    def run(
        denoiser: _native.Denoiser,
        ids: Any,
        positions: Any = None,
        head_rows: Any = None,
        **options: Any,
    ) -> _native.StepOutput:
        count = len(ids)
        return denoiser.step(
            np.ascontiguousarray(ids, np.int32),
            np.asarray(range(count) if positions is None else positions, np.int32),
            np.asarray(range(count) if head_rows is None else head_rows, np.int32),
            **options,
        )

    return run


@pytest.fixture(scope="session")
def head_fields() -> Callable[..., dict[str, NDArray[Any]]]:
    """``head_fields(output, rows)``: all figures of those head rows, by name."""

    def fields(output: _native.StepOutput, rows: Any = slice(None)) -> dict[str, NDArray[Any]]:
        assert not output.cancelled
        return {name: getattr(output, name)[rows] for name in FIELDS}

    return fields


@pytest.fixture(scope="session")
def cache_content() -> Callable[[_native.KvCache], list[NDArray[Any]]]:
    """``cache_content(cache)``: which slots are valid, and keys and values of all of them."""

    def content(cache: _native.KvCache) -> list[NDArray[Any]]:
        valid = cache.valid()
        slots = range(len(valid))
        return [valid, *(part for p in slots for part in (cache.keys(p), cache.values(p)))]

    return content

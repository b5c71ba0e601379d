"""Small checkpoints, made to order, and the command run in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]

CONFIG: dict[str, Any] = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "d_model": 64,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 2,
    "mlp_hidden_size": 96,
    "vocab_size": 40,
    "max_sequence_length": 48,
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


def llada_tensors(config: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Random float32 tensors in the shapes and under the names of a LLaDA checkpoint."""
    random = np.random.default_rng(seed)
    hidden, wide = config["d_model"], config["mlp_hidden_size"]
    kv_size = hidden // config["n_heads"] * config["n_kv_heads"]
    rows = config.get("embedding_size") or config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"wte": (rows, hidden), "ln_f": (hidden,)}
    shapes["ff_out"] = (rows, hidden)
    if config.get("learned_position_table"):
        shapes["wpe"] = (config["max_sequence_length"], hidden)
    block = {
        "attn_norm": (hidden,),
        "ff_norm": (hidden,),
        "q_proj": (hidden, hidden),
        "k_proj": (kv_size, hidden),
        "v_proj": (kv_size, hidden),
        "attn_out": (hidden, hidden),
        "ff_proj": (wide, hidden),
        "up_proj": (wide, hidden),
        "ff_out": (hidden, wide),
    }
    for layer in range(config["n_layers"]):
        shapes.update({f"blocks.{layer}.{name}": shape for name, shape in block.items()})
    return {
        f"model.transformer.{name}.weight": random.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """The file format by hand, with uint16 arrays declared as bfloat16."""
    dtypes = {"f4": "F32", "f2": "F16", "u2": "BF16", "i8": "I64"}
    header: dict[str, Any] = {}
    offset = 0
    for name, array in tensors.items():
        end = offset + array.nbytes
        dtype = dtypes[array.dtype.str[1:]]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@dataclass
class Folder:
    """A checkpoint folder that a test changes before converting it."""

    path: Path
    config: dict[str, Any]
    tensors: Tensors

    def write(self) -> Path:
        self.write_config()
        self.write_weights("model.safetensors")
        return self.path

    def write_weights(self, name: str) -> Path:
        write_safetensors(self.path / name, self.tensors)
        return self.path / name

    def write_config(self) -> None:
        (self.path / "config.json").write_text(json.dumps(self.config))

    def write_shards(self) -> Path:
        """Two files and their index, in place of model.safetensors."""
        self.write_config()
        names = sorted(self.tensors)
        shards = {"a-1.safetensors": names[::2], "b-2.safetensors": names[1::2]}
        weight_map = {}
        for shard, members in shards.items():
            write_safetensors(self.path / shard, {name: self.tensors[name] for name in members})
            weight_map.update(dict.fromkeys(members, shard))
        self.write_index(weight_map)
        return self.path

    def write_index(self, weight_map: object) -> None:
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (self.path / "model.safetensors.index.json").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Folder]:
    """``folder(n_heads=8, ...)``: a random LLaDA checkpoint; None removes a key."""

    def make(**changes: Any) -> Folder:
        config = {k: v for k, v in (CONFIG | changes).items() if v is not ...}
        path = tmp_path / "checkpoint"
        path.mkdir()
        return Folder(path, config, llada_tensors(CONFIG | config))

    return make


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[str], Path]:
    """``golden("llada")``: a copy of a golden checkpoint that a test may change."""

    def copy(name: str) -> Path:
        source = Path(__file__).parents[1] / "golden" / name
        return Path(shutil.copytree(source, tmp_path / name))

    return copy


@dataclass(frozen=True)
class Outcome:
    """What one run of the command left on its streams."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The only line on stderr of a failed run."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("edge-convert: error: ")
        return lines[0]


@pytest.fixture
def edge_convert(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``edge-convert`` with these arguments in this process."""
    from convert.cli import PROGRAM, command
    from edge.exit_codes import guarded

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        code = guarded(PROGRAM, command, [str(arg) for arg in args])
        streams = capsys.readouterr()
        return Outcome(code, streams.out, streams.err)

    return run

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


DENSE_CONFIG: dict[str, Any] = {
    "architectures": ["SDARForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "vocab_size": 40,
    "max_position_embeddings": 48,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "mask_token_id": 39,
    "eos_token_id": 38,
}
TEXT = "the quick brown fox isn't 1234 jumping\n\n over  LAZY dogs'LL  \u00e9t\u00e9 \u4f60\u597d "
QWEN3 = ("A2DQwen3LMHeadModel", "SDARForCausalLM", "Qwen3ForCausalLM")


def dense_tensors(config: Mapping[str, Any], rows: int = 0, seed: int = 0) -> Tensors:
    """Random float32 tensors in the shapes and under the names of Llama, Qwen2 or Qwen3."""
    random = np.random.default_rng(seed)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q_size = head_dim * config["num_attention_heads"]
    kv_size = head_dim * config["num_key_value_heads"]
    name = config["architectures"][0]
    rows = rows or config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, hidden)}
    for layer in range(config["num_hidden_layers"]):
        part = f"model.layers.{layer}"
        shapes[f"{part}.input_layernorm.weight"] = (hidden,)
        shapes[f"{part}.post_attention_layernorm.weight"] = (hidden,)
        for x, size in {"q": q_size, "k": kv_size, "v": kv_size}.items():
            shapes[f"{part}.self_attn.{x}_proj.weight"] = (size, hidden)
            if config.get("attention_bias") or name not in (*QWEN3, "LlamaForCausalLM"):
                shapes[f"{part}.self_attn.{x}_proj.bias"] = (size,)
            if name in QWEN3 and x != "v":
                shapes[f"{part}.self_attn.{x}_norm.weight"] = (head_dim,)
        shapes[f"{part}.self_attn.o_proj.weight"] = (hidden, q_size)
        shapes[f"{part}.mlp.gate_proj.weight"] = (wide, hidden)
        shapes[f"{part}.mlp.up_proj.weight"] = (wide, hidden)
        shapes[f"{part}.mlp.down_proj.weight"] = (hidden, wide)
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (rows, hidden)}
    return {n: random.normal(0, 0.2, shape).astype(np.float32) for n, shape in shapes.items()}


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
def dense(tmp_path: Path) -> Callable[..., Folder]:
    """``dense("DreamModel", head_dim=32)``: a random checkpoint with Qwen's tensor names."""

    def make(
        architecture: str = "SDARForCausalLM",
        *,
        rows: int = 0,
        folder: str = "checkpoint",
        **changes: Any,
    ) -> Folder:
        config = DENSE_CONFIG | {"architectures": [architecture]} | changes
        config = {k: v for k, v in config.items() if v is not ...}
        path = tmp_path / folder
        path.mkdir()
        return Folder(path, config, dense_tensors(DENSE_CONFIG | config, rows))

    return make


@pytest.fixture
def bpe() -> Callable[[str], Any]:
    """``bpe("qwen2")``: a small byte-level BPE tokenizer that splits words in that known way.

    Its last three tokens are ``<|endoftext|>``, ``<|mask|>`` and, for everyone to write,
    ``<think>``.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from edge.formats.pretokenizers import IGNORE_MERGES, PRE_TOKENIZERS

    def make(name: str) -> Any:
        tokenizer = Tokenizer(models.BPE(ignore_merges=name in IGNORE_MERGES))
        splits = [pre_tokenizers.Split(Regex(e), "isolated") for e in PRE_TOKENIZERS[name]]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([TEXT] * 10, trainer)
        tokenizer.add_special_tokens(["<|endoftext|>", "<|mask|>"])
        tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
        return tokenizer

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
        assert lines[0].startswith(("edge-convert: error: ", "edge-convert compare: error: "))
        return lines[0]


@pytest.fixture
def edge_convert(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``edge-convert`` with these arguments in this process."""
    from convert.cli import run as run_command

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        code = run_command([str(arg) for arg in args])
        streams = capsys.readouterr()
        return Outcome(code, streams.out, streams.err)

    return run

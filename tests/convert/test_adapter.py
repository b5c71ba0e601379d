"""Low-rank adapters: merged exactly, or refused in one line that names file and tensor."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from convert import convert as run
from convert.adapter import LowRank, MergedTensor, open_adapter
from convert.safetensors_file import read_header
from edge.errors import EdgeError, ModelFileError, ModelNotFoundError, UnsupportedModelError
from edge.formats.gguf_file import open_model

Make = Callable[..., Any]  # conftest.folder and conftest.dense
Run = Callable[..., Any]  # conftest.edge_convert
Array = NDArray[Any]

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 6,
    "target_modules": "all-linear",
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "lora_dropout": 0.05,
    "peft_version": "0.17.0",
}


@dataclass
class LoRA:
    """An adapter folder that a test changes before merging it."""

    path: Path
    config: dict[str, Any] = field(default_factory=lambda: dict(CONFIG))
    tensors: dict[str, Array] = field(default_factory=dict)

    def add(self, module: str, rows: int, cols: int, rank: int = 4, seed: int = 0) -> Array:
        """Put random factors into it; returns B @ A."""
        random = np.random.default_rng(seed)
        a, b = (random.normal(size=s).astype(np.float32) for s in ((rank, cols), (rows, rank)))
        self.tensors[f"base_model.model.{module}.lora_A.weight"] = a
        self.tensors[f"base_model.model.{module}.lora_B.weight"] = b
        return b.astype(np.float64) @ a.astype(np.float64)

    def write(self) -> Path:
        self.path.mkdir(exist_ok=True)
        (self.path / "adapter_config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, self.path / "adapter_model.safetensors")
        return self.path


@pytest.fixture
def lora(tmp_path: Path) -> LoRA:
    return LoRA(tmp_path / "lora")


def assert_merged(
    made: Any, adapter: Path, changes: Mapping[str, Array], tmp_path: Path, kind: str = "f32"
) -> None:
    """The file equals that of a checkpoint merged by numpy, in every tensor's bits."""
    run(made.write(), tmp_path / "merged.gguf", kind, adapter=adapter)
    made.tensors = made.tensors | {
        name: (made.tensors[name] + change).astype(np.float32) for name, change in changes.items()
    }
    run(made.write(), tmp_path / "wanted.gguf", kind)
    merged, wanted = (open_model(tmp_path / f"{name}.gguf") for name in ("merged", "wanted"))
    assert list(merged.tensors) == list(wanted.tensors)
    for name, tensor in wanted.tensors.items():
        rows = math.prod(tensor.shape[:-1])
        read = merged.read_rows(name, 0, rows)
        np.testing.assert_array_equal(read, wanted.read_rows(name, 0, rows), name)


@pytest.mark.parametrize("kind", ["f32", "int8", "q4_0"])
def test_merged_before_anything_is_quantized(
    dense: Make, lora: LoRA, tmp_path: Path, kind: str
) -> None:
    changes = {f"{Q}.weight": lora.add(Q, 64, 64) * 1.5}
    changes[f"{DOWN}.weight"] = lora.add(DOWN, 64, 96, seed=1) * 1.5
    assert_merged(dense(), lora.write(), changes, tmp_path, kind)


def test_rows_of_llada_are_permuted_after_merging(folder: Make, lora: LoRA, tmp_path: Path) -> None:
    module = "model.transformer.blocks.1.q_proj"
    changes = {f"{module}.weight": lora.add(module, 64, 64) * 1.5}
    assert_merged(folder(), lora.write(), changes, tmp_path)


def test_rank_stabilized_scale(dense: Make, lora: LoRA, tmp_path: Path) -> None:
    lora.config["use_rslora"] = True
    assert_merged(dense(), _one(lora), _scaled(lora, 3), tmp_path)


def _one(lora: LoRA) -> Path:
    lora.add(Q, 64, 64)
    return lora.write()


def _scaled(lora: LoRA, scale: float) -> dict[str, Array]:
    return {f"{Q}.weight": LoRA(lora.path).add(Q, 64, 64) * scale}


def test_patterns_give_modules_ranks_and_factors(dense: Make, lora: LoRA, tmp_path: Path) -> None:
    lora.config["rank_pattern"] = {"q_proj": 2, r"layers\.\d+\.mlp\.down_proj": 8}
    lora.config["alpha_pattern"] = {"^model.layers.1.mlp.down_proj": 12, "down_proj": 99}
    changes = {f"{Q}.weight": lora.add(Q, 64, 64, rank=2) * 3.0}
    changes[f"{DOWN}.weight"] = lora.add(DOWN, 64, 96, rank=8) * 1.5
    assert_merged(dense(), lora.write(), changes, tmp_path)


def test_embeddings_and_whole_tensors(dense: Make, lora: LoRA, tmp_path: Path) -> None:
    made = dense()
    random = np.random.default_rng(5)
    a, b = (random.normal(size=s).astype(np.float32) for s in ((4, 40), (64, 4)))
    prefix = "base_model.model.model"
    lora.tensors[f"{prefix}.embed_tokens.lora_embedding_A"] = a
    lora.tensors[f"{prefix}.embed_tokens.lora_embedding_B"] = b
    norm = random.normal(size=64).astype(np.float32)
    lora.tensors[f"{prefix}.norm.weight"] = norm
    lora.config["modules_to_save"] = ["model.norm"]
    adapter = lora.write()
    run(made.write(), tmp_path / "out.gguf", "f32", adapter=adapter)
    file = open_model(tmp_path / "out.gguf")
    change = (a.T.astype(np.float64) @ b.T.astype(np.float64)) * 1.5
    wanted = (made.tensors["model.embed_tokens.weight"] + change).astype(np.float32)
    np.testing.assert_array_equal(file.read_rows("token_embd.weight", 0, 40), wanted)
    np.testing.assert_array_equal(file.read_rows("output_norm.weight", 0, 1)[0], norm)


def test_the_file_and_the_report_name_the_adapter(dense: Make, lora: LoRA, tmp_path: Path) -> None:
    adapter = _one(lora)
    report = run(dense().write(), tmp_path / "out.gguf", adapter=adapter)
    hashed = hashlib.sha256((adapter / "adapter_config.json").read_bytes())
    hashed.update((adapter / "adapter_model.safetensors").read_bytes())
    metadata = open_model(tmp_path / "out.gguf").metadata
    assert metadata["edge.source.adapter_sha256"] == hashed.hexdigest() == report.adapter_sha256
    assert metadata["edge.source.sha256"] == report.source_sha256
    assert report.adapter == str(adapter)
    assert report.notes == (f"the adapter {adapter} is merged into 1 tensors: {Q}.weight",)


def refused(dense: Make, lora: LoRA, tmp_path: Path, kind: type[EdgeError]) -> str:
    with pytest.raises(kind) as caught:
        run(dense().write(), tmp_path / "out.gguf", "f32", adapter=lora.write())
    assert not (tmp_path / "out.gguf").exists()
    assert "\n" not in str(caught.value)
    assert str(lora.path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("use_dora", True, "use_dora is true (false is supported)"),
        ("fan_in_fan_out", True, "fan_in_fan_out is true"),
        ("peft_type", "LOHA", 'peft_type is "LOHA"'),
        ("init_lora_weights", "pissa", 'init_lora_weights is "pissa"'),
        ("bias", "some", 'bias is "some"'),
        ("lora_bias", True, '"lora_bias" is true'),
        ("layer_replication", [[0, 2]], '"layer_replication" is [[0, 2]]'),
        ("a_setting_of_tomorrow", 1, '"a_setting_of_tomorrow" is 1'),
        ("rank_pattern", {"(a+)+b": 4}, "no simple pattern"),
        ("rank_pattern", {"(": 4}, "no simple pattern"),
    ],
)
def test_settings_that_cannot_be_merged(
    dense: Make, lora: LoRA, tmp_path: Path, key: str, value: object, reason: str
) -> None:
    lora.add(Q, 64, 64)
    lora.config[key] = value
    assert reason in refused(dense, lora, tmp_path, UnsupportedModelError)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("r", ..., "has no r, a whole number"),
        ("r", 0, "r is 0"),
        ("r", True, "r is true"),
        ("r", 8, "is 4x64, [rank, in] with the rank 8 of adapter_config.json"),
        ("lora_alpha", "6", 'lora_alpha is "6"'),
        ("lora_alpha", ..., "has no lora_alpha"),
        ("peft_type", ..., "has no peft_type"),
        ("use_rslora", 1, "use_rslora is 1"),
        ("rank_pattern", {"q_proj": 0}, "rank_pattern is"),
        ("alpha_pattern", [], "alpha_pattern is []"),
        ("target_modules", ["q_proj"], "nothing is there for 'model.layers.1.self_attn.q_proj"),
        ("modules_to_save", ["lm_head"], "nothing is there for 'lm_head.weight'"),
    ],
)
def test_settings_that_cannot_be(
    dense: Make, lora: LoRA, tmp_path: Path, key: str, value: object, reason: str
) -> None:
    lora.add(Q, 64, 64)
    lora.config = {k: v for k, v in (lora.config | {key: value}).items() if v is not ...}
    assert reason in refused(dense, lora, tmp_path, ModelFileError)


def spoil(lora: LoRA, name: str, value: Array | None) -> None:
    lora.tensors[f"base_model.model.{name}"] = value  # type: ignore[assignment]
    lora.tensors = {k: v for k, v in lora.tensors.items() if v is not None}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (f"{Q}.lora_B.weight", None, f"{Q}.lora_A.weight' has no .lora_B.weight beside it"),
        (f"{Q}.lora_A.weight", None, f"{Q}.lora_B.weight' has no .lora_A.weight beside it"),
        (f"{Q}.lora_B.weight", np.zeros((32, 4), "f4"), "makes 32x64, the checkpoint's"),
        (f"{Q}.lora_B.weight", np.zeros((64, 3), "f4"), "is 64x3, [out, rank]"),
        (f"{Q}.lora_B.weight", np.zeros(64, "f4"), "is 64, [out, rank]"),
        (f"{Q}.lora_B.weight", np.full((64, 4), np.nan, "f4"), "lora_B.weight' holds nan at"),
        (f"{Q}.lora_A.weight", np.full((4, 64), 3e38, "f4"), "too large for float32"),
        ("model.norm.weight", np.zeros(3, "f4"), "makes 3, the checkpoint's"),
        ("model.nothing.weight", np.zeros(3, "f4"), "which the checkpoint does not have"),
        (f"{Q}.lora_C.weight", np.zeros(3, "f4"), "which the checkpoint does not have"),
    ],
)
def test_tensors_that_do_not_fit(
    dense: Make, lora: LoRA, tmp_path: Path, name: str, value: Array | None, reason: str
) -> None:
    lora.add(Q, 64, 64)
    spoil(lora, name, value)
    assert reason in refused(dense, lora, tmp_path, ModelFileError)


def test_names_without_the_prefix(dense: Make, lora: LoRA, tmp_path: Path) -> None:
    lora.add(Q, 64, 64)
    lora.tensors = {name.removeprefix("base_model."): v for name, v in lora.tensors.items()}
    reason = "does not begin with base_model.model."
    assert reason in refused(dense, lora, tmp_path, ModelFileError)


def test_two_tensors_in_the_place_of_one(dense: Make, lora: LoRA, tmp_path: Path) -> None:
    made = dense()
    lora.add(Q, 64, 64)
    for name in ("model.norm.weight", "model.norm.base_layer.weight"):
        lora.tensors[f"base_model.model.{name}"] = np.ones(64, np.float32)
    with pytest.raises(ModelFileError, match=r"model\.norm.* both take the place of one"):
        run(made.write(), tmp_path / "out.gguf", "f32", adapter=lora.write())


def test_some_rows_are_merged_as_all_are(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = {"weight": (12, 8), "a": (2, 8), "b": (12, 2), "ea": (2, 12), "eb": (8, 2)}
    tensors = {name: random.normal(size=s).astype(np.float32) for name, s in sizes.items()}
    save_file(tensors, tmp_path / "t.safetensors")
    stored = read_header(tmp_path / "t.safetensors")
    for a, b, is_embedding in (("a", "b", False), ("ea", "eb", True)):
        update = LowRank(stored[a], stored[b], 0.5, is_embedding)
        merged = MergedTensor("weight", stored["weight"], update)
        np.testing.assert_array_equal(merged.values(3, 5), merged.values()[3:8])
        assert not np.array_equal(merged.values(), tensors["weight"])


def test_magnitudes_of_dora(dense: Make, lora: LoRA, tmp_path: Path) -> None:
    lora.add(Q, 64, 64)
    spoil(lora, f"{Q}.lora_magnitude_vector", np.ones(64, np.float32))
    error = refused(dense, lora, tmp_path, UnsupportedModelError)
    assert f"{Q}.lora_magnitude_vector' belongs to DoRA" in error


def test_half_of_a_tie(dense: Make, lora: LoRA, tmp_path: Path) -> None:
    made = dense(tie_word_embeddings=True)
    del made.tensors["lm_head.weight"]
    lora.tensors["base_model.model.model.embed_tokens.weight"] = np.ones((40, 64), np.float32)
    with pytest.raises(UnsupportedModelError, match="which is the head too"):
        run(made.write(), tmp_path / "out.gguf", adapter=lora.write())


def test_pickled_adapters_are_not_opened(dense: Make, lora: LoRA, tmp_path: Path) -> None:
    path = _one(lora)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"adapter_model\.bin is a pickled adapter"):
        run(dense().write(), tmp_path / "out.gguf", adapter=path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_files(lora: LoRA, name: str) -> None:
    (_one(lora) / name).unlink()
    with pytest.raises(ModelFileError, match=f"{name} is missing"):
        open_adapter(lora.path)
    with pytest.raises(ModelNotFoundError, match="no such adapter folder"):
        open_adapter(lora.path / "nowhere")


JSON = st.none() | st.booleans() | st.integers(-5, 70) | st.floats(allow_nan=False) | st.text()
JSON = JSON | st.lists(JSON, max_size=2) | st.dictionaries(st.text(max_size=6), JSON, max_size=2)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from([*CONFIG, "rank_pattern", "alpha_pattern", "modules_to_save"]), JSON)
def test_any_value_of_any_setting(lora: LoRA, key: str, value: object) -> None:
    lora.add(Q, 64, 64)
    lora.config = CONFIG | {key: value}
    refusal, scale = "", 0.0
    try:
        scale = open_adapter(lora.write()).updates[f"{Q}.weight"].scale
    except EdgeError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert math.isfinite(scale)


def test_the_command_line(dense: Make, lora: LoRA, tmp_path: Path, edge_convert: Run) -> None:
    adapter, source, out = _one(lora), dense().write(), tmp_path / "out.gguf"
    command = [sys.executable, "-m", "convert", source, out, "--adapter", adapter, "--type", "int8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1].startswith(f"note: the adapter {adapter} is merged into 1")
    inside = edge_convert(source, adapter / "out.gguf", "--adapter", adapter)
    assert (inside.code, "the output lies in the source" in inside.error) == (2, True)
    lora.config["use_dora"] = True
    dry = edge_convert(source, tmp_path / "x.gguf", "--adapter", lora.write(), "--dry-run")
    assert (dry.code, "use_dora is true" in dry.error) == (4, True)

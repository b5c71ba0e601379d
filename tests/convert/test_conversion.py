"""Whole conversions read back: by the strict reader, by gguf's own, and against the source."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

import convert.pipeline
import edge
from convert import convert as run
from convert.checkpoint import open_checkpoint
from convert.models import build_spec
from convert.models.base import Choices
from edge.errors import ModelFileError, UnsupportedModelError
from edge.formats.gguf_file import open_model

Make = Callable[..., Any]  # conftest.folder
Golden = Callable[[str], Path]
TYPES = ["f32", "f16", "bf16", "int8", "int4", "q8_0", "q4_0"]
# Largest possible error of one value over the largest magnitude in its group.
WORST = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.0045, "q4_0": 0.126}
WORST |= {"int8": 0.0045, "int4": 0.3}  # int4 clips, where that makes the squared error less


# The fixtures without one in config.json come without a tokenizer too.
MASKS = {"a2d_qwen3_mdlm": 245, "a2d_qwen3_bd3lm": 245, "fast_dllm_v2": 245}
FAMILIES = ["llada", "sudoku", "dream", "sdar", *MASKS]


def expected_values(source: Path) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(source)
    spec = build_spec(checkpoint, Choices(MASKS.get(source.name)))
    return {tensor.target: tensor.load(checkpoint) for tensor in spec.tensors}


def stored_type(name: str, cols: int, kind: str) -> str:
    if "norm" in name or name.endswith(".bias") or name == "position_embd.weight":
        return "f32"
    return "f16" if kind[0] in "qi" and cols % 32 else kind


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_reads_back_within_its_type(
    golden: Golden, tmp_path: Path, name: str, kind: str
) -> None:
    source = golden(name)
    report = run(
        source, tmp_path / "out.gguf", kind, method="nearest", mask_token_id=MASKS.get(name)
    )
    file = open_model(tmp_path / "out.gguf")
    expected = expected_values(source)
    assert list(file.tensors) == list(expected)
    reported = {tensor.name: tensor for tensor in report.tensors}
    for target, values in expected.items():
        info = file.tensors[target]
        assert tuple(info.shape) == values.shape
        assert info.type == stored_type(target, values.shape[-1], kind)
        rows = values.reshape(-1, values.shape[-1])
        error = np.abs(file.read_rows(target, 0, len(rows)) - rows)
        group = info.group_size or (32 if info.type[0] == "q" else 1)
        peaks = np.abs(rows.reshape(-1, group)).max(axis=1, keepdims=True)
        assert (error.reshape(-1, group) <= WORST[info.type] * peaks + 2.0**-25).all()
        assert reported[target].max_abs_error == pytest.approx(float(error.max()))
        rmse = float(np.sqrt((error.astype(np.float64) ** 2).mean()))
        assert reported[target].rmse == pytest.approx(rmse)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind[0] != "i"])
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_gguf_reads_our_files(golden: Golden, tmp_path: Path, name: str, kind: str) -> None:
    run(golden(name), tmp_path / "out.gguf", kind, method="nearest")
    reader = GGUFReader(tmp_path / "out.gguf")
    ours = open_model(tmp_path / "out.gguf")
    assert {tensor.name for tensor in reader.tensors} == ours.tensors.keys()
    for tensor in reader.tensors:
        theirs = dequantize(tensor.data, tensor.tensor_type)
        theirs = theirs.reshape(-1, theirs.shape[-1])
        np.testing.assert_array_equal(theirs, ours.read_rows(tensor.name, 0, len(theirs)))
    for key, value in ours.metadata.items():
        theirs = reader.fields[key].contents()
        assert np.array_equal(theirs, value), key


def test_keys_of_the_golden_files(golden: Golden, tmp_path: Path) -> None:
    run(golden("sudoku"), tmp_path / "out.gguf", overrides={"edge.task": "sudoku"})
    metadata = open_model(tmp_path / "out.gguf").metadata
    text = (tmp_path / "sudoku" / "tokenizer.json").read_text(encoding="utf-8")
    hashed = hashlib.sha256((tmp_path / "sudoku" / "config.json").read_bytes())
    hashed.update((tmp_path / "sudoku" / "model.safetensors").read_bytes())
    wanted = {
        "general.architecture": "edge-llama",
        "general.name": "sudoku",
        "edge-llama.context_length": 81,
        "edge-llama.vocab_size": 10,
        "edge-llama.rope.freq_base": float(np.float32(1e12)),
        "diffusion.canvas": "in_place",
        "diffusion.canvas_length": 81,
        "diffusion.attention": "full",
        "tokenizer.ggml.model": "no_vocab",
        "tokenizer.ggml.mask_token_id": 0,
        "tokenizer.huggingface.json": text,
        "edge.task": "sudoku",
        "edge.source.sha256": hashed.hexdigest(),
        "edge.source.architecture": "LLaDAModelLM",
        "edge.conversion.type": "q8_0",
    }
    assert {key: metadata[key] for key in wanted} == wanted
    assert "diffusion.eos_ids" not in metadata
    assert "edge.num_tokens" not in metadata


@pytest.mark.parametrize("kind", ["q8_0", "bf16"])
def test_sharded_and_bfloat16_sources(folder: Make, tmp_path: Path, kind: str) -> None:
    made = folder(n_heads=8, n_kv_heads=2, learned_position_table=True)
    for name, array in made.tensors.items():
        made.tensors[name] = (array.view(np.uint32) >> 16).astype(np.uint16)
    source = made.write_shards()
    run(source, tmp_path / "out.gguf", kind, method="nearest")
    file = open_model(tmp_path / "out.gguf")
    for target, values in expected_values(source).items():
        rows = values.reshape(-1, values.shape[-1])
        read = file.read_rows(target, 0, len(rows))
        if kind == "bf16":  # nothing is lost on the way
            np.testing.assert_array_equal(read, rows)
        else:
            assert np.abs(read - rows).max() <= 0.0045 * np.abs(rows).max()


def test_a_tied_head_is_in_the_file_once(folder: Make, tmp_path: Path) -> None:
    made = folder(weight_tying=True)
    made.tensors["model.transformer.ff_out.weight"] = made.tensors["model.transformer.wte.weight"]
    run(made.write(), tmp_path / "out.gguf")
    assert "output.weight" not in open_model(tmp_path / "out.gguf").tensors


@pytest.mark.parametrize("name", ["dream", "sdar"])
def test_ragged_columns_of_the_golden_files_are_listed(
    golden: Golden, tmp_path: Path, name: str
) -> None:
    report = run(golden(name), tmp_path / "out.gguf", "q4_0")
    kept = [(tensor.name, tensor.reason) for tensor in report.kept_f16]
    reason = "groups of 32 do not divide 112 columns"
    assert kept == [(f"blk.{n}.ffn_down.weight", reason) for n in range(3)]


@pytest.mark.parametrize("kind", ["int8", "int4", "q8_0", "q4_0"])
def test_ragged_columns_stay_f16_and_are_listed(folder: Make, tmp_path: Path, kind: str) -> None:
    made = folder(mlp_hidden_size=72, n_layers=1)
    report = run(made.write(), tmp_path / "out.gguf", kind, method="nearest")
    assert [(kept.name, kept.reason) for kept in report.kept_f16] == [
        ("blk.0.ffn_down.weight", "groups of 32 do not divide 72 columns")
    ]
    assert open_model(tmp_path / "out.gguf").tensors["blk.0.ffn_down.weight"].type == "f16"


def test_same_input_same_bytes(golden: Golden, tmp_path: Path) -> None:
    first = run(golden("sudoku"), tmp_path / "a.gguf", "q4_0")
    source = tmp_path / "elsewhere" / "sudoku"
    source.parent.mkdir()
    (tmp_path / "sudoku").rename(source)
    second = run(source, tmp_path / "elsewhere" / "b.gguf", "q4_0")
    data = (tmp_path / "a.gguf").read_bytes()
    assert data == (tmp_path / "elsewhere" / "b.gguf").read_bytes()
    assert first.sha256 == second.sha256 == hashlib.sha256(data).hexdigest()
    assert str(tmp_path).encode() not in data


def test_shards_give_the_weights_of_one_file(folder: Make, tmp_path: Path) -> None:
    made = folder()
    run(made.write(), tmp_path / "one.gguf")
    (made.path / "model.safetensors").unlink()
    run(made.write_shards(), tmp_path / "two.gguf")
    one, two = open_model(tmp_path / "one.gguf"), open_model(tmp_path / "two.gguf")
    for name, info in one.tensors.items():
        num_rows = info.shape[0] if len(info.shape) > 1 else 1
        np.testing.assert_array_equal(
            one.read_rows(name, 0, num_rows), two.read_rows(name, 0, num_rows)
        )


def test_a_dry_run_writes_nothing_and_says_the_same(golden: Golden, tmp_path: Path) -> None:
    source = golden("llada")
    before = sorted(tmp_path.rglob("*"))
    planned = run(source, tmp_path / "out.gguf", "q4_0", dry_run=True, report=tmp_path / "r")
    assert sorted(tmp_path.rglob("*")) == before
    written = run(source, tmp_path / "out.gguf", "q4_0")

    def shape(report: Any) -> list[object]:
        return [(t.name, t.source_name, t.type, t.shape, t.bytes) for t in report.tensors]

    assert shape(planned) == shape(written)
    assert planned.bits_per_weight == written.bits_per_weight
    assert 0 < written.size_bytes - planned.size_bytes < 8192  # the header
    assert planned.dry_run
    assert not written.dry_run


def test_a_template_without_a_tokenizer_is_kept(folder: Make, tmp_path: Path) -> None:
    made = folder()
    (made.write() / "chat_template.jinja").write_text("{{ messages }}")
    run(made.path, tmp_path / "out.gguf")
    metadata = open_model(tmp_path / "out.gguf").metadata
    assert metadata["tokenizer.chat_template"] == "{{ messages }}"
    assert "tokenizer.huggingface.json" not in metadata


def test_the_report(golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden("llada")
    monkeypatch.chdir(tmp_path)
    result = run("llada", "out.gguf", "q4_0", report="report.json")
    report = json.loads(Path("report.json").read_text())
    assert report == json.loads(json.dumps(result.to_json()))
    size = Path("out.gguf").stat().st_size
    assert {
        "schema": 1,
        "source": "llada",
        "output": "out.gguf",
        "source_architecture": "LLaDAModelLM",
        "architecture": "llada",
        "type": "q4_0",
        "size_bytes": size,
        "sha256": hashlib.sha256(Path("out.gguf").read_bytes()).hexdigest(),
        "dry_run": False,
    }.items() <= report.items()
    assert report["tensor_bytes"] == sum(tensor["bytes"] for tensor in report["tensors"])
    assert report["bits_per_weight"] == 8 * report["tensor_bytes"] / report["num_weights"]
    assert [kept["name"] for kept in report["kept_f16"]] == [
        f"blk.{n}.ffn_down.weight" for n in range(3)
    ]
    assert report["keys"]["tokenizer.ggml.mask_token_id"] == 245
    assert str(tmp_path) not in Path("report.json").read_text()
    head = report["tensors"][-1]
    assert head["name"] == "output.weight"
    assert head["source_name"] == "model.transformer.ff_out.weight"
    assert 0 < head["rmse"] < head["max_abs_error"] < 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_report_compares_activations(golden: Golden, tmp_path: Path, name: str) -> None:
    result = run(
        golden(name),
        tmp_path / "out.gguf",
        report=tmp_path / "report.json",
        mask_token_id=MASKS.get(name),
    )
    compared = result.activations
    assert compared is not None
    assert compared.canvas_length == (81 if name == "sudoku" else 64)
    assert compared.num_masked == (compared.canvas_length + 1) // 2
    assert 0 < compared.mean_abs_difference < compared.max_abs_difference < 3
    assert 0 < compared.mean_kl_nats < 0.01
    assert compared.top1_agreement > 0.9


def test_float_weights_meet_float_activations(golden: Golden, tmp_path: Path) -> None:
    result = run(golden("llada"), tmp_path / "out.gguf", "bf16", report=tmp_path / "report.json")
    compared = result.activations
    assert compared is not None
    assert (compared.max_abs_difference, compared.mean_kl_nats) == (0, 0)
    assert compared.top1_agreement == 1


@pytest.mark.parametrize(
    ("name", "logits"), [("llada", "logits"), ("dream", "logits_raw"), ("sdar", "logits")]
)
def test_the_runtime_computes_the_reference_logits(
    golden: Golden, tmp_path: Path, name: str, logits: str
) -> None:
    source = golden(name)
    run(source, tmp_path / "out.gguf", "f32")
    with np.load(source / "expected.npz") as expected, edge.load(tmp_path / "out.gguf") as model:
        np.testing.assert_allclose(model.logits(expected["x"]), expected[logits], atol=1e-4)


def test_memory_follows_the_largest_tensor_not_the_model(folder: Make, tmp_path: Path) -> None:
    made = folder(d_model=128, mlp_hidden_size=384, n_layers=24)
    source = made.write()
    model_bytes = sum(array.nbytes for array in made.tensors.values())
    largest_bytes = max(array.nbytes for array in made.tensors.values())
    run(source, tmp_path / "warm.gguf", dry_run=True)
    tracemalloc.start()
    try:
        run(source, tmp_path / "out.gguf")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # errors are summed as float64: that takes four times a small tensor
    assert peak_bytes < 10 * largest_bytes + (4 << 20) < model_bytes / 2


@pytest.mark.parametrize("kind", ["f16", "int8", "int4", "q8_0", "q4_0"])
def test_values_too_large_for_the_type_are_refused(folder: Make, tmp_path: Path, kind: str) -> None:
    made = folder()
    name = "model.transformer.blocks.0.v_proj.weight"
    made.tensors[name][3, 4] = -1e9
    with pytest.raises(UnsupportedModelError, match=f"{name}' holds 1e\\+09, too large for {kind}"):
        run(made.write(), tmp_path / "out.gguf", kind, method="nearest")
    run(made.path, tmp_path / "out.gguf", "bf16")


def test_a_wrong_write_is_caught_before_the_rename(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    honest = convert.pipeline.encoded

    def flipped(tensor: Any, values: Any) -> Any:
        stored = honest(tensor, values)
        if tensor.spec.target == "blk.3.ffn_up.weight":
            stored = stored.copy()
            stored[7, 20] ^= 0x40
            stored[7, 54] ^= 0x40
        return stored

    monkeypatch.setattr(convert.pipeline, "encoded", flipped)
    with pytest.raises(ModelFileError, match=r"blk\.3\.ffn_up\.weight' differs from its source"):
        run(golden("sudoku"), out, "f32", force=True)
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", "sudoku"]


def test_progress_counts_every_stage_to_its_end(golden: Golden, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    run(golden("llada"), tmp_path / "out.gguf", progress=lambda *call: calls.append(call))
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == ["hash", "write", "verify"]
    for stage in ("hash", "write", "verify"):
        own = [(done, total) for name, done, total in calls if name == stage]
        assert own[0][0] == 0
        assert own[-1][0] == own[-1][1] > 0
        assert own == sorted(own)

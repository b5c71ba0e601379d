"""Reading checkpoint folders: exact widening, shards, and everything that is refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert.checkpoint import open_checkpoint
from edge.errors import ModelFileError, ModelNotFoundError, UnsupportedModelError

Make = Callable[..., Any]  # conftest.folder


def test_every_bfloat16_widens_exactly(folder: Make) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[(bits & 0x7F80) != 0x7F80]  # no infinities and no NaN
    made = folder()
    made.tensors = {"x": bits}
    values = open_checkpoint(made.write()).tensors["x"].values()
    np.testing.assert_array_equal(values.view(np.uint32), bits.astype(np.uint32) << 16)
    assert values.dtype == np.float32


def test_every_float16_widens_exactly(folder: Make) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    made = folder()
    made.tensors = {"x": halves}
    values = open_checkpoint(made.write()).tensors["x"].values()
    np.testing.assert_array_equal(values.astype(np.float16).view(np.uint16), halves.view(np.uint16))


def test_files_of_the_safetensors_library_read_the_same(folder: Make) -> None:
    made = folder()
    made.write_config()
    save_file(made.tensors, made.path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(made.path)
    assert checkpoint.tensors.keys() == made.tensors.keys()
    for name, array in made.tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].values(), array)


def test_shards_hold_what_one_file_holds(folder: Make) -> None:
    made = folder()
    checkpoint = open_checkpoint(made.write_shards())
    assert [path.name for path in checkpoint.weight_files] == ["a-1.safetensors", "b-2.safetensors"]
    for name, array in made.tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].values(), array)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_weights_are_named(folder: Make, bad: float) -> None:
    made = folder()
    name = "model.transformer.blocks.1.up_proj.weight"
    made.tensors[name][5, 7] = bad
    tensor = open_checkpoint(made.write()).tensors[name]
    with pytest.raises(ModelFileError, match=rf"{name}' holds {bad} at \[5, 7\]"):
        tensor.values()


def test_integer_tensors_are_refused(folder: Make) -> None:
    made = folder()
    made.tensors = {"x": np.zeros(4, np.int64)}
    tensor = open_checkpoint(made.write()).tensors["x"]
    with pytest.raises(UnsupportedModelError, match="'x' is stored as I64"):
        tensor.values()


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..\\outside.safetensors",
        "..",
        "",
        "nul\0.safetensors",
        "line\n.safetensors",
        "m\N{FULLWIDTH FULL STOP}safetensors",
        7,
        None,
    ],
)
def test_shard_names_cannot_leave_the_folder(folder: Make, name: object) -> None:
    made = folder()
    made.write_weights("../outside.safetensors")
    made.write_config()
    made.write_index(dict.fromkeys(made.tensors, name))
    with pytest.raises(ModelFileError, match=r"shard name .* is refused"):
        open_checkpoint(made.path)


@pytest.mark.parametrize("place", ["real.bin", "../blob"])
def test_links_are_followed_as_the_hub_cache_needs(folder: Make, place: str) -> None:
    made = folder()
    made.write()
    (made.path / "model.safetensors").rename(made.path / place)
    (made.path / "model.safetensors").symlink_to(place)
    assert open_checkpoint(made.path).tensors.keys() == made.tensors.keys()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_in_the_folder_is_refused_without_waiting(folder: Make, name: str) -> None:
    made = folder()
    made.write()
    (made.path / name).unlink(missing_ok=True)
    os.mkfifo(made.path / name)
    with pytest.raises(ModelFileError, match="not a regular file"):
        open_checkpoint(made.path)


def test_a_link_loop_is_refused(folder: Make) -> None:
    made = folder()
    made.write()
    (made.path / "tokenizer.json").symlink_to("tokenizer.json")
    with pytest.raises(ModelFileError, match=r"tokenizer\.json is "):
        open_checkpoint(made.path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.popitem(), "the index says null"),
        (lambda m: m.update({"ghost": "a-1.safetensors"}), "1 tensors of the index are in no"),
        (lambda m: m.update(dict.fromkeys(m, "a-1.safetensors")), "are in no shard"),
        (lambda m: m.update({"x": "gone.safetensors"}), r"there is no gone\.safetensors"),
    ],
)
def test_index_and_shards_must_agree(
    folder: Make, change: Callable[[dict[str, str]], object], reason: str
) -> None:
    made = folder()
    made.write_shards()
    index = made.path / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    change(weight_map)
    made.write_index(weight_map)
    with pytest.raises(ModelFileError, match=reason):
        open_checkpoint(made.path)


@pytest.mark.parametrize("keep", [0, 3, 8, 40, 1000, -1])
def test_truncated_safetensors_are_refused(folder: Make, keep: int) -> None:
    made = folder()
    path = made.write() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match="not a sound safetensors file"):
        open_checkpoint(made.path)


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value"),
        (b"[1]", "a list where an object is wanted"),
        (b'{"d_model": 1, "d_model": 2}', 'the name "d_model" occurs twice'),
        (b'{"eps": NaN}', "NaN is no JSON number"),
        (b'{"eps": -Infinity}', "-Infinity is no JSON number"),
        (b'{"eps": 1e400}', "the number 1e400 is too large"),
        (b'{"n": ' + b"9" * 5000 + b"}", "digits"),
        (DEEP, "nested too deeply"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": 1} tail', "Extra data"),
        (b" " * ((1 << 20) + 1), "larger than 1048576 bytes"),
    ],
)
def test_config_faults_are_one_typed_line(folder: Make, text: bytes, reason: str) -> None:
    made = folder()
    made.write()
    (made.path / "config.json").write_bytes(text)
    with pytest.raises(ModelFileError) as caught:
        open_checkpoint(made.path)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "refused by the tokenizers library"),
        ('{"model": {"vocab": {"a": 0, "a": 1}}}', "occurs twice"),
    ],
)
def test_tokenizer_faults_are_typed(folder: Make, text: str, reason: str) -> None:
    made = folder()
    made.write()
    (made.path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelFileError, match=reason):
        open_checkpoint(made.path)


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": "one"}}, "one"),
        ({"tokenizer_config.json": {"chat_template": None}}, None),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tool", "template": "no"},
                        {"name": "default", "template": "two"},
                    ]
                }
            },
            "two",
        ),
        ({"tokenizer_config.json": {"chat_template": "one"}, "chat_template.jinja": "3"}, "3"),
    ],
)
def test_chat_template(folder: Make, files: dict[str, object], template: str | None) -> None:
    made = folder()
    made.write()
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (made.path / name).write_text(text)
    assert open_checkpoint(made.path).chat_template == template


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        open_checkpoint(tmp_path / "nowhere")


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there are no safetensors weights"):
        open_checkpoint(tmp_path)


def test_missing_config(folder: Make) -> None:
    made = folder()
    made.write()
    (made.path / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"there is no config\.json"):
        open_checkpoint(made.path)


PICKLE_PROBE = """
import json, sys
from convert.cli import PROGRAM, command
import convert.checkpoint, convert.pipeline, convert.verify
from edge.exit_codes import guarded
events = []
def hook(event, args):
    if event == "pickle.find_class":
        events.append([event, str(args[1])])
    if event == "open" and str(args[0]).endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")):
        events.append([event, str(args[0])])
sys.addaudithook(hook)
code = guarded(PROGRAM, command, None)
print(json.dumps([code, events]))
"""


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "w.pt", "w.pth", "w.ckpt", "w.pkl"])
@pytest.mark.parametrize("direct", [False, True])
def test_pickles_are_refused_unopened(tmp_path: Path, name: str, direct: bool) -> None:
    source = tmp_path / "checkpoint"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / name).write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    target = source / name if direct else source
    with pytest.raises(UnsupportedModelError, match=f"{name} is a pickled checkpoint.*run code"):
        open_checkpoint(target)
    assert not (tmp_path / "ran").exists()


def test_no_pickle_machinery_runs(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    source.mkdir()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    command = [sys.executable, "-c", PICKLE_PROBE, str(source), str(tmp_path / "out.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [4, []]
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_a_pickle_named_safetensors_is_refused(folder: Make, tmp_path: Path) -> None:
    made = folder()
    made.write_config()
    (made.path / "model.safetensors").write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    with pytest.raises(ModelFileError, match="not a sound safetensors file"):
        open_checkpoint(made.path)
    assert not (tmp_path / "ran").exists()

"""What all tests share: golden checkpoints, converted models, one run per instruction set."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from convert import convert
from edge import _native
from edge.vocabulary import byte_letters

GOLDEN = Path(__file__).parent / "golden"
CHAT_TOKENS = {"<|im_end|>": 240, "<|mask|>": 245, "<|im_start|>": 246}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """``golden("llada")``: the folder of a golden checkpoint, to be read only."""
    return GOLDEN.joinpath


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``converted(folder, "q8_0")``: that checkpoint as a model file, made once per session."""
    folder = tmp_path_factory.mktemp("converted")
    files: dict[tuple[Path, str], Path] = {}

    def model_file(source: Path, type: str = "f32") -> Path:
        key = (source, type)
        if key not in files:
            files[key] = folder / f"{len(files)}-{source.name}-{type}.gguf"
            groups = {"group_size": 128, "minima": True} if type == "int4" else {}
            convert(source, files[key], type, method="nearest", **groups)
        return files[key]

    return model_file


@pytest.fixture(scope="session")
def with_bytes(
    golden: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``with_bytes("sdar")``: that checkpoint with a chat template and a token per byte."""
    return lambda name: _with_bytes(golden(name), tmp_path_factory.mktemp(name) / "checkpoint")


@pytest.fixture(scope="session")
def chat_checkpoint(with_bytes: Callable[[str], Path]) -> Path:
    """A block model with random weights, a chat template, and a token per byte below 0xF0."""
    return with_bytes("sdar")


@pytest.fixture(scope="session")
def text_model(
    with_bytes: Callable[[str], Path], converted: Callable[..., Path]
) -> Callable[[str], Path]:
    """``text_model("llada")``: such a checkpoint of another family as a model file."""
    return cache(lambda name: converted(with_bytes(name)))


def _with_bytes(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.npz"))
    letters = {letter: byte for byte, letter in byte_letters().items() if byte < 0xF0}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    vocab = letters | CHAT_TOKENS | {"ab": 247}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": id, "content": text, "special": True, **flags}
            for text, id in CHAT_TOKENS.items()
        ],
        "pre_tokenizer": {**to_bytes, "use_regex": True},
        "decoder": {**to_bytes, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"chat_template": CHAT_TEMPLATE, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def chat_model(chat_checkpoint: Path, converted: Callable[..., Path]) -> Path:
    """That checkpoint as a model file."""
    return converted(chat_checkpoint, "f32")


@pytest.fixture(scope="session")
def llama_cpp() -> Iterator[ModuleType]:
    """llama.cpp by its low-level Python binding, silent."""
    library = pytest.importorskip("llama_cpp")
    silent = library.llama_log_callback(lambda _level, _text, _data: None)
    library.llama_log_set(silent, ctypes.c_void_p())
    library.llama_backend_init()
    yield library
    library.llama_backend_free()


@pytest.fixture(scope="session", autouse=True)
def _small_work_is_shared() -> None:
    """The tests' denoisers are so small that one thread alone would do all their work."""
    _native.set_shortest_shared_ns(0)


@pytest.fixture(params=_native.supported_isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this processor runs, in force for ``edge.load``."""
    monkeypatch.setenv("EDGE_ISA", request.param)
    return str(request.param)

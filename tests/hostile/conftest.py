"""A small sound model file, taken apart so that each of its fields can lie."""

from __future__ import annotations

import faulthandler
import json
import math
import os
import resource
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

import edge
from convert import convert

HIDDEN, VOCAB, MASK = 32, 16, 15
CONFIG = {
    "architectures": ["LLaDAModelLM"],
    "d_model": HIDDEN,
    "n_heads": 2,
    "n_kv_heads": 2,
    "n_layers": 1,
    "mlp_hidden_size": HIDDEN,
    "vocab_size": VOCAB,
    "max_sequence_length": 24,
    "rope": True,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "block_type": "llama",
    "weight_tying": False,
    "mask_token_id": MASK,
    "eos_token_id": 14,
}
DIFFUSION = {
    "diffusion.block_length": "4",
    "diffusion.sampler": "low_confidence_dynamic",
    "diffusion.steps_per_block": "2",
    "diffusion.threshold": "0.9",
    "diffusion.eos_ids": "14,13",
    "general.name": "small",
}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {
        "type": "WordLevel",
        "vocab": {f"w{i}": i for i in range(VOCAB)},
        "unk_token": "w0",
    },
}


def random_weights() -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    random = np.random.default_rng(0)
    square = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
    shapes: dict[str, tuple[int, ...]] = {"wte": (VOCAB, HIDDEN), "ff_out": (VOCAB, HIDDEN)}
    shapes |= {"ln_f": (HIDDEN,), "blocks.0.attn_norm": (HIDDEN,), "blocks.0.ff_norm": (HIDDEN,)}
    shapes |= {f"blocks.0.{name}": (HIDDEN, HIDDEN) for name in square}
    return {
        f"model.transformer.{name}.weight": random.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The small model as a file's bytes, by storage type."""
    folder = tmp_path_factory.mktemp("checkpoint")
    out = tmp_path_factory.mktemp("small")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER, separators=(",", ":")))
    save_file(random_weights(), folder / "model.safetensors")
    files = {}
    for kind in ("q8_0", "f32", "int8", "int4"):
        minima = True if kind == "int4" else None
        options = {"method": "nearest", "minima": minima, "overrides": DIFFUSION}
        convert(folder, out / f"{kind}.gguf", kind, **options)
        files[kind] = (out / f"{kind}.gguf").read_bytes()
    return files


@pytest.fixture(scope="session")
def small(small_files: dict[str, bytes]) -> bytes:
    """The small model with q8_0 weights, about 12 KB."""
    return small_files["q8_0"]


# Scalar types of a GGUF: id and layout.
SCALARS = {
    "u8": (0, "B"),
    "i8": (1, "b"),
    "u16": (2, "H"),
    "i16": (3, "h"),
    "u32": (4, "I"),
    "i32": (5, "i"),
    "f32": (6, "f"),
    "bool": (7, "B"),
    "u64": (10, "Q"),
    "i64": (11, "q"),
    "f64": (12, "d"),
}
STRING, ARRAY = 8, 9
ITEM_SIZE = {number: struct.calcsize("<" + layout) for number, layout in SCALARS.values()}


def text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def encoded(kind: str, value: Any) -> tuple[int, bytes]:
    """Type id and bytes of a value; ``kind`` is a scalar's name, "string", or "[scalar]"."""
    if kind == "string":
        return STRING, text(value)
    if kind == "[string]":
        return ARRAY, struct.pack("<IQ", STRING, len(value)) + b"".join(map(text, value))
    if kind.startswith("["):
        number, layout = SCALARS[kind.strip("[]")]
        return ARRAY, struct.pack(f"<IQ{len(value)}{layout}", number, len(value), *value)
    number, layout = SCALARS[kind]
    return number, struct.pack("<" + layout, value)


@dataclass
class Tensor:
    """One line of the tensor table, fastest dimension first as in the file."""

    name: bytes
    dims: list[int]
    type: int
    offset: int


class Gguf:
    """A model file in its parts. None for a count means the true one.

    No dataclass: hypothesis would print every byte of it.
    """

    def __init__(
        self, keys: dict[bytes, tuple[int, bytes]], tensors: list[Tensor], data: bytes
    ) -> None:
        self.magic = b"GGUF"
        self.version = 3
        self.num_tensors: int | None = None
        self.num_keys: int | None = None
        self.keys = keys
        self.extra_keys: list[bytes] = []  # encoded, after the others
        self.tensors = tensors
        self.alignment = 32
        self.data = data
        self.fields: list[tuple[int, int]] = []  # (offset, width) of the integers
        self.header_bytes = 0

    def set(self, key: str, kind: str, value: Any) -> None:
        self.keys[key.encode()] = encoded(kind, value)

    def add_raw_key(self, key: str | bytes, type_id: int, payload: bytes) -> None:
        self.extra_keys.append(text(key) + struct.pack("<I", type_id) + payload)

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    def span(self, name: str) -> slice:
        """Where a tensor's bytes are in ``data``."""
        first = self.tensor(name).offset
        after = [tensor.offset for tensor in self.tensors if tensor.offset > first]
        return slice(first, min(after, default=len(self.data)))

    def encode(self) -> bytes:
        """The file's bytes; fills ``fields`` and ``header_bytes``."""
        out = bytearray()
        self.fields = []

        def put(layout: str, value: int) -> None:
            self.fields.append((len(out), struct.calcsize("<" + layout)))
            out.extend(struct.pack("<" + layout, value))

        out += self.magic
        put("I", self.version)
        put("Q", len(self.tensors) if self.num_tensors is None else self.num_tensors)
        count = len(self.keys) + len(self.extra_keys)
        put("Q", count if self.num_keys is None else self.num_keys)
        for key, (type_id, payload) in self.keys.items():
            put("Q", len(key))
            out += key
            put("I", type_id)
            self.fields += [(len(out) + at, width) for at, width in fields_of(type_id)]
            out += payload
        for raw in self.extra_keys:
            out += raw
        for tensor in self.tensors:
            put("Q", len(tensor.name))
            out += tensor.name
            put("I", len(tensor.dims))
            for size in tensor.dims:
                put("Q", size)
            put("I", tensor.type)
            put("Q", tensor.offset)
        out += bytes(-len(out) % self.alignment)
        self.header_bytes = len(out)
        return bytes(out + self.data)


def fields_of(type_id: int) -> list[tuple[int, int]]:
    """(offset, width) of the integers at the beginning of a value of that type."""
    if type_id == STRING:
        return [(0, 8)]
    if type_id == ARRAY:
        return [(0, 4), (4, 8)]
    return [(0, ITEM_SIZE[type_id])]


def taken_apart(content: bytes) -> Gguf:
    """Parse a sound file, trusting it."""
    at = 4

    def get(layout: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + layout, content, at)
        at += struct.calcsize("<" + layout)
        return int(value)

    def get_bytes(size: int) -> bytes:
        nonlocal at
        at += size
        return content[at - size : at]

    def string_bytes(start: int) -> int:
        return 8 + int(struct.unpack_from("<Q", content, start)[0])

    def size_of(type_id: int) -> int:
        if type_id == STRING:
            return string_bytes(at)
        if type_id == ARRAY:
            item, count = struct.unpack_from("<IQ", content, at)
            size = 12
            for _ in range(count):
                size += string_bytes(at + size) if item == STRING else ITEM_SIZE[item]
            return size
        return ITEM_SIZE[type_id]

    _version, num_tensors, num_keys = get("I"), get("Q"), get("Q")
    keys = {}
    for _ in range(num_keys):
        key, type_id = get_bytes(get("Q")), get("I")
        keys[key] = (type_id, get_bytes(size_of(type_id)))
    tensors = []
    for _ in range(num_tensors):
        name, num_dims = get_bytes(get("Q")), get("I")
        tensors.append(Tensor(name, [get("Q") for _ in range(num_dims)], get("I"), get("Q")))
    return Gguf(keys, tensors, content[at + -at % 32 :])


@pytest.fixture
def gguf(small: bytes) -> Gguf:
    """The small file, to be changed."""
    apart = taken_apart(small)
    assert apart.encode() == small
    return apart


@pytest.fixture(scope="session")
def take_apart() -> Callable[[bytes], Gguf]:
    return taken_apart


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write bytes as the one model file of this test; return its path."""
    path = tmp_path / "model.gguf"

    def write_bytes(content: bytes) -> Path:
        path.write_bytes(content)
        return path

    return write_bytes


def generate_one_token(model: edge.Model) -> None:
    """Whatever the file said of itself, one forward with its head."""
    config = model.config
    if config.diffusion.in_place:
        length = config.diffusion.canvas_length or 0
        assert length <= 64, "a test asks for a canvas that is too long to run"
        result = model.generate_ids([config.diffusion.mask_token_id] * length)
    else:
        prompt = [0] * min(2, config.denoiser.context_length - 1)
        result = model.generate_ids(prompt, max_tokens=1)
        assert len(result.ids) <= 1
    assert all(0 <= token < config.num_tokens for token in result.ids)
    assert config.diffusion.mask_token_id not in result.ids
    assert math.isfinite(result.stats.mean_confidence)


REFUSALS = (edge.ModelFileError, edge.UnsupportedModelError, edge.NumericError)


@pytest.fixture(scope="session")
def load_and_run() -> Callable[[Path], edge.EdgeError | None]:
    """Inspect, load and run a file: None, or the documented refusal; nothing else may happen."""

    def attempt(path: Path) -> edge.EdgeError | None:
        try:
            edge.inspect(path)
            with edge.load(path, threads=1) as model:
                generate_one_token(model)
        except REFUSALS as error:
            line = str(error)
            assert "\n" not in line
            assert len(line) < 5000
            return error
        return None

    return attempt


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """All hostile files are small: an allocation of half a gigabyte fails, whoever asks for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + (512 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def no_growth() -> Iterator[None]:
    """What a test with many files allocates, it frees."""
    process = psutil.Process()
    before = process.memory_info().rss
    yield
    assert process.memory_info().rss - before < 64 << 20


@pytest.fixture(scope="session")
def alarm(request: pytest.FixtureRequest) -> Iterator[Callable[[float], None]]:
    """``alarm(seconds)``: end the run with a traceback unless called again by then.

    A thread of the interpreter watches, because a hang in native code would not let a signal
    handler run.
    """
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        terminal = os.dup(2)

    def arm(seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=terminal)

    yield arm
    faulthandler.cancel_dump_traceback_later()
    os.close(terminal)


@pytest.fixture(autouse=True)
def no_hang(alarm: Callable[[float], None]) -> Iterator[None]:
    alarm(120)
    yield
    faulthandler.cancel_dump_traceback_later()

"""Sound containers whose keys lie: any value under any key is served, or refused by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import edge

Write = Callable[[bytes], Path]
Run = Callable[[Path], edge.EdgeError | None]
Alarm = Callable[[float], None]

ANY_FLOAT = st.sampled_from([0.0, -0.0, -1.0, 1e-45, 1e-5, 0.5, 1.0, 3e38, math.nan, math.inf])
DOUBLES = ANY_FLOAT | st.sampled_from([5e-324, 1e-300, 1e300, -math.inf])
SMALL = st.integers(0, 40)
VALUES = st.one_of(
    st.tuples(st.just("u32"), SMALL | st.sampled_from([2**28, 2**28 + 1, 2**31, 2**32 - 1])),
    st.tuples(st.just("i32"), SMALL | st.sampled_from([-1, -(2**31), 2**31 - 1])),
    st.tuples(st.just("u64"), SMALL | st.sampled_from([2**40, 2**63, 2**64 - 1])),
    st.tuples(st.just("i64"), SMALL | st.sampled_from([-1, -(2**63), 2**63 - 1])),
    st.tuples(st.just("u8"), st.integers(0, 255)),
    st.tuples(st.just("f32"), ANY_FLOAT),
    st.tuples(st.just("f64"), DOUBLES),
    st.tuples(st.just("bool"), st.integers(0, 1)),
    st.tuples(st.just("string"), st.text(max_size=8) | st.sampled_from(["full", "mask", "14"])),
    st.tuples(st.just("[string]"), st.lists(st.text(max_size=3), max_size=3)),
    st.tuples(st.just("[u32]"), st.lists(SMALL | st.just(2**32 - 1), max_size=3)),
    st.tuples(st.just("[i64]"), st.lists(st.integers(-1, 16), max_size=3)),
    st.tuples(st.just("[f64]"), st.lists(DOUBLES, max_size=3)),
    st.tuples(st.just("[bool]"), st.lists(st.integers(0, 1), max_size=3)),
)

# Keys that the small file need not hold but that a reader may heed.
MORE_KEYS = [
    "diffusion.attention",
    "diffusion.canvas",
    "diffusion.canvas_length",
    "diffusion.noise",
    "diffusion.shift_logits",
    "edge.num_tokens",
    "edge.task",
    "general.alignment",
    "llada.attention.causal",
    "llada.attention.key_length",
    "llada.attention.value_length",
    "llada.rope.dimension_count",
    "llada.rope.freq_base",
    "tokenizer.chat_template",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.padding_token_id",
]


HEAD_KEYS = (  # they decide the size of a head together
    "llada.attention.head_count",
    "llada.attention.key_length",
    "llada.attention.value_length",
    "llada.rope.dimension_count",
)
RELATED = {
    "general.architecture": ("architecture",),
    "edge.task": ("task",),
    "diffusion.sampler": ("sampler",),
    "diffusion.canvas": ("canvas",),  # the length that an in_place canvas needs
    "llada.vocab_size": ("tokenizer.ggml.",),  # an id that it makes impossible
    "llada.embedding_length": HEAD_KEYS,
}


def names_its_cause(error: edge.EdgeError, key: str) -> bool:
    """A refusal names the key, or the tensor or number that the key makes impossible."""
    if isinstance(error, edge.NumericError) or key == "general.alignment":
        return True  # an alignment is told by the tensors that it displaces
    line = str(error)
    related = RELATED.get(key, ()) if key not in HEAD_KEYS else HEAD_KEYS
    return any(word in line for word in (key, "tensor '", *related))


def check(path: Path, key: str, load_and_run: Run) -> None:
    error = load_and_run(path)
    assert error is None or names_its_cause(error, key), str(error)


@pytest.fixture
def keys(gguf: Any) -> list[str]:
    """Every key that the small file holds, and more."""
    return sorted({key.decode() for key in gguf.keys} | set(MORE_KEYS))


@settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(number=st.integers(0, 99), value=VALUES)
def test_any_value_of_any_key(
    number: int,
    value: tuple[str, Any],
    gguf: Any,
    keys: list[str],
    write: Write,
    load_and_run: Run,
    alarm: Alarm,
) -> None:
    alarm(10)
    key = keys[number % len(keys)]
    was = dict(gguf.keys)
    gguf.set(key, *value)
    path = write(gguf.encode())
    gguf.keys = was
    check(path, key, load_and_run)


EVERY_KIND: list[tuple[str, Any]] = [
    ("u32", 0),
    ("u32", 1),
    ("u32", 3),
    ("u32", 2**32 - 1),
    ("i32", -1),
    ("u64", 2**63),
    ("u64", 2**64 - 1),
    ("i64", -(2**63)),
    ("f32", 0.0),
    ("f32", -1.0),
    ("f32", 1e-45),
    ("f32", math.nan),
    ("f32", math.inf),
    ("f64", 5e-324),
    ("f64", 1e-300),
    ("f64", 1e300),
    ("f64", -math.inf),
    ("bool", 1),
    ("string", ""),
    ("string", "1"),
    ("string", "x\ny\x1b[31m"),
    ("[u32]", []),
    ("[u32]", [1]),
    ("[f64]", [math.nan]),
    ("[f64]", [math.inf]),
    ("[f64]", [1.5]),
    ("[string]", ["1"]),
    ("[bool]", [1]),
]


@pytest.mark.parametrize(("kind", "value"), EVERY_KIND, ids=lambda x: ascii(x))
def test_one_value_under_every_key(
    kind: str, value: Any, gguf: Any, keys: list[str], write: Write, load_and_run: Run
) -> None:
    wrong = []
    for key in keys:
        was = dict(gguf.keys)
        gguf.set(key, kind, value)
        try:
            check(write(gguf.encode()), key, load_and_run)
        except Exception as error:
            wrong.append((key, repr(error)))
        gguf.keys = was
    assert wrong == []


def test_every_key_removed(gguf: Any, keys: list[str], write: Write, load_and_run: Run) -> None:
    for key in keys:
        was = dict(gguf.keys)
        gguf.keys.pop(key.encode(), None)
        check(write(gguf.encode()), key, load_and_run)
        gguf.keys = was


REQUIRED = [
    "general.architecture",
    "llada.block_count",
    "llada.context_length",
    "llada.embedding_length",
    "llada.feed_forward_length",
    "llada.attention.head_count",
    "llada.attention.layer_norm_rms_epsilon",
    "tokenizer.ggml.mask_token_id",
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_key_without_which_nothing_is_known(key: str, gguf: Any, write: Write) -> None:
    del gguf.keys[key.encode()]
    with pytest.raises(edge.ModelFileError, match=rf"key '{key}' is missing"):
        edge.inspect(write(gguf.encode()))


# What is accepted silently although it contradicts the tensors would run another network.
CONTRADICTIONS: list[tuple[str, int]] = [
    ("llada.block_count", 2),
    ("llada.embedding_length", 64),
    ("llada.feed_forward_length", 64),
    ("llada.attention.head_count_kv", 1),
    ("llada.attention.key_length", 8),
    ("llada.vocab_size", 17),
    ("llada.vocab_size", 15),
]


@pytest.mark.parametrize(("key", "value"), CONTRADICTIONS)
def test_keys_that_contradict_the_tensors(key: str, value: int, gguf: Any, write: Write) -> None:
    gguf.set(key, "u32", value)
    path = write(gguf.encode())
    with pytest.raises((edge.ModelFileError, edge.UnsupportedModelError)):
        edge.load(path, threads=1)


def test_bf16_activations_are_a_list_of_names(gguf: Any, write: Write) -> None:
    gguf.set("edge.activations.bf16", "u32", 1)
    with pytest.raises(edge.ModelFileError, match="no array of the kind that is wanted"):
        edge.load(write(gguf.encode()), threads=1)


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(heads=st.integers(0, 70), kv_heads=st.integers(0, 70), dim=st.integers(0, 70))
@example(heads=2**31, kv_heads=2**31, dim=2**31)
@example(heads=2**28, kv_heads=2**28, dim=2**28)
def test_sizes_of_heads(
    heads: int, kv_heads: int, dim: int, gguf: Any, write: Write, load_and_run: Run, alarm: Alarm
) -> None:
    alarm(10)
    gguf.set("llada.attention.head_count", "u32", heads)
    gguf.set("llada.attention.head_count_kv", "u32", kv_heads)
    gguf.set("llada.attention.key_length", "u32", dim)
    gguf.set("llada.attention.value_length", "u32", dim)
    gguf.set("llada.rope.dimension_count", "u32", dim)
    load_and_run(write(gguf.encode()))

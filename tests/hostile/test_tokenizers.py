"""Tokenizers inside model files that are damaged, or disagree with the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge

Write = Callable[[bytes], Path]
Alarm = Callable[[float], None]
KEY = "tokenizer.huggingface.json"
REFUSALS = (edge.ModelFileError, edge.UnsupportedModelError)


def with_tokenizer(gguf: Any, tokenizer: object) -> bytes:
    text = tokenizer if isinstance(tokenizer, str) else json.dumps(tokenizer)
    gguf.set(KEY, "string", text)
    content: bytes = gguf.encode()
    return content


def word_level(vocab: dict[str, int], **changes: Any) -> dict[str, Any]:
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": next(iter(vocab), "")}
    whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
    return {**whole, "model": model, **changes}


@pytest.mark.parametrize(
    "content",
    ["", "null", "{}", "[]", "{" * 100_000, "[" * 100_000, '{"version": "1.0"}', "x" * 100_000],
    ids=lambda content: content[:12] or "nothing",
)
def test_what_is_no_tokenizer(content: str, gguf: Any, write: Write) -> None:
    with pytest.raises(edge.ModelFileError, match=KEY) as caught:
        edge.load(write(with_tokenizer(gguf, content)), threads=1)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("token_id", [16, 17, 40, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
def test_tokens_that_the_model_does_not_have(token_id: int, gguf: Any, write: Write) -> None:
    path = write(with_tokenizer(gguf, word_level({"a": 0, "b": token_id})))
    with pytest.raises(edge.EdgeError) as caught, edge.load(path, threads=1) as model:
        model.generate("a b", max_tokens=1)
    assert "\n" not in str(caught.value)


def test_answers_that_the_tokenizer_does_not_have(gguf: Any, write: Write) -> None:
    """Ids without a word are told as no text, not as a crash."""
    path = write(with_tokenizer(gguf, word_level({"a": 0})))
    with edge.load(path, threads=1) as model:
        result = model.generate("a", max_tokens=8)
    assert isinstance(result.text, str)
    assert all(0 <= token < 15 for token in result.ids)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**33) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
PLACES = [
    "version",
    "added_tokens",
    "pre_tokenizer",
    "normalizer",
    "post_processor",
    "decoder",
    "truncation",
    "padding",
    "model",
]
KINDS = ["Replace", "ByteLevel", "Split", "Sequence", "TemplateProcessing", "Metaspace", "Fuse"]
KINDS += ["BPE", "Unigram", "WordPiece", "WordLevel", "Precompiled", "Strip", "Digits"]


@pytest.mark.slow
@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    place=st.sampled_from(PLACES),
    value=JSON_VALUES
    | st.builds(
        lambda kind, rest: {**rest, "type": kind},
        st.sampled_from(KINDS),
        st.dictionaries(
            st.sampled_from(
                ["pattern", "content", "vocab", "merges", "unk_id", "behavior", "start"]
            ),
            JSON_VALUES,
        ),
    ),
)
def test_any_value_at_any_place(
    place: str, value: Any, gguf: Any, write: Write, alarm: Alarm
) -> None:
    alarm(10)
    path = write(with_tokenizer(gguf, word_level({"w0": 0, "w1": 1}, **{place: value})))
    refusal = ""
    try:
        with edge.load(path, threads=1) as model:
            model.generate("w1 w0", max_tokens=1)
    except REFUSALS as error:
        refusal = str(error)
    assert "\n" not in refusal

"""Tokenizers from a file's ``tokenizer.ggml.*`` keys, as foreign files have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import EdgeError, ModelFileError, UnsupportedModelError
from edge.formats.gguf_file import Header
from edge.formats.pretokenizers import ADD_BOS, PRE_TOKENIZERS
from edge.tokenizer import Tokenizer
from edge.vocabulary import build_tokenizer, byte_letters, fault_of, holds_vocabulary

MODEL, PRE, TOKENS, TYPES, MERGES = (
    f"tokenizer.ggml.{name}" for name in ("model", "pre", "tokens", "token_type", "merges")
)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
SPACE = "\u0120"  # how the alphabet writes a space
MORE = ["he", "ll", "hell", f"{SPACE}hell", "<s>", "<|end|>", "<think>", "[PAD]"]
MORE_TYPES = [NORMAL] * 4 + [CONTROL, CONTROL, USER_DEFINED, UNUSED]
NUM_ROWS = 300


def metadata(lacking: str = "", **changes: Any) -> dict[str, Any]:
    letters = [letter for letter in byte_letters().values() if letter not in lacking]
    tokens = letters + MORE
    found = {
        MODEL: "gpt2",
        PRE: "gpt-2",
        TOKENS: tokens,
        TYPES: [NORMAL] * len(letters) + MORE_TYPES,
        MERGES: ["h e", "l l", "he ll", f"{SPACE} hell"],
    }
    found |= {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return {key: value for key, value in found.items() if value is not ...}


def header(**changes: Any) -> Header:
    return Header("f.gguf", metadata(**changes), {}, 0, 0)


def tokenizer(**changes: Any) -> Tokenizer:
    built, num_ids = build_tokenizer(header(**changes), NUM_ROWS)
    return Tokenizer(built, num_ids=num_ids)


def words(made: Tokenizer, text: str) -> list[str | None]:
    return [made.token(id) for id in made.encode(text).tolist()]


def test_merges_and_control_tokens() -> None:
    made = tokenizer()
    assert words(made, "hell hell<s>") == ["hell", f"{SPACE}hell", "<", "s", ">"]
    assert words(made, "he<think>") == ["he", "<think>"]
    assert words(made, "[PAD]") == ["[", "P", "A", "D", "]"]
    assert made.decode(np.array([made.encode("<think>")[0]])) == "<think>"


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=40) | st.text("he l1\n'<s>|endthik", max_size=30))
def test_round_trip(pre: str, text: str) -> None:
    made = tokenizer(pre=pre, add_bos_token=False)
    assert not made.missing_bytes
    assert made.decode(made.encode(text)) == text


def test_a_byte_without_a_token_keeps_its_neighbours_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = tokenizer(lacking="x")
    assert made.missing_bytes == {ord("x")}
    assert words(made, "hxe") == ["h", "e"]
    assert "0x78" in caplog.text
    assert made.encode("x").tolist() == []


class TestEnds:
    @pytest.mark.parametrize("pre", sorted(set(PRE_TOKENIZERS) - ADD_BOS))
    def test_none_by_default(self, pre: str) -> None:
        assert words(tokenizer(pre=pre), "he") == ["he"]

    @pytest.mark.parametrize("pre", sorted(ADD_BOS))
    def test_some_start_every_text(self, pre: str) -> None:
        bos = metadata()[TOKENS].index("<s>")
        assert words(tokenizer(pre=pre, bos_token_id=bos), "he") == ["<s>", "he"]
        assert words(tokenizer(pre=pre, bos_token_id=bos, add_bos_token=False), "he") == ["he"]

    def test_both(self) -> None:
        ids = {"bos_token_id": metadata()[TOKENS].index("<s>")}
        ids["eos_token_id"] = ids["bos_token_id"] + 1
        made = tokenizer(add_bos_token=True, add_eos_token=True, **ids)
        assert words(made, "he") == ["<s>", "he", "<|end|>"]
        assert made.decode(made.encode("he")) == "he"

    @pytest.mark.parametrize("id", [..., -1, 10**6, True, "<s>"])
    def test_an_id_that_cannot_be(self, id: Any) -> None:
        with pytest.raises(ModelFileError, match=r"bos_token_id.*f\.gguf"):
            tokenizer(add_bos_token=True, bos_token_id=id)

    def test_a_wish_that_is_none(self) -> None:
        with pytest.raises(ModelFileError, match="add_bos_token' is 1"):
            tokenizer(add_bos_token=1)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"model": "llama"}, r"'tokenizer.ggml.model' is 'llama'.*known: gpt2"),
        ({"model": 5}, r"'tokenizer.ggml.model' is 5"),
        ({"pre": "of-tomorrow"}, r"'tokenizer.ggml.pre' is 'of-tomorrow'.*known: gpt-2"),
        ({"pre": ...}, r"'tokenizer.ggml.pre' is missing"),
        ({"pre": ["gpt-2"]}, r"'tokenizer.ggml.pre' is \['gpt-2'\]"),
    ],
)
def test_a_vocabulary_of_another_kind(changes: dict[str, Any], wanted: str) -> None:
    file = header(**changes)
    assert holds_vocabulary(file)
    assert fault_of(file) is not None
    with pytest.raises(UnsupportedModelError, match=wanted):
        build_tokenizer(file, NUM_ROWS)


@pytest.mark.parametrize("changes", [{"model": ...}, {"model": "no_vocab"}])
def test_no_vocabulary(changes: dict[str, Any]) -> None:
    assert not holds_vocabulary(header(**changes))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"tokens": ...}, "tokens' is missing"),
        ({"tokens": "abc"}, "tokens' is not a list of strings"),
        ({"tokens": ["a"] * 250 + ["b"] * 10}, "ids 0 and 1 to one token, 'a'"),
        ({"tokens": [str(i) for i in range(301)]}, "301 tokens.*300 rows"),
        ({"token_type": ...}, "token_type' is missing"),
        ({"token_type": [1, 2]}, "token_type' is not a list of numbers, one per token"),
        ({"token_type": [7] * 251}, "token 0 the type 7"),
        ({"merges": ...}, "merges' is missing"),
        ({"merges": ["ab"]}, "merges' holds 'ab' at 0"),
        ({"merges": ["a "]}, "merges' holds 'a ' at 0"),
        ({"merges": ["h\u4f60 e"]}, "merges' is refused"),
    ],
)
def test_a_damaged_vocabulary(changes: dict[str, Any], wanted: str) -> None:
    file = header(**changes)
    with pytest.raises(ModelFileError, match=wanted) as caught:
        build_tokenizer(file, NUM_ROWS)
    assert "f.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.text(max_size=4) | st.integers(-9, 9), max_size=4),
    st.lists(st.integers(-1, 8), min_size=251, max_size=251),
    st.lists(st.text(st.characters(), min_size=1, max_size=3), min_size=200, max_size=251),
)


@settings(max_examples=100, deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(
            ["model", "pre", "tokens", "token_type", "merges", "add_bos_token", "bos_token_id"]
        ),
        ANY,
        min_size=1,
        max_size=3,
    )
)
def test_any_value_of_any_key(changes: dict[str, Any]) -> None:
    refusal = ""
    try:
        made = tokenizer(**changes)
        assert isinstance(made.decode(made.encode("hell <s> 1")), str)
    except EdgeError as error:
        refusal = str(error)
    assert "\n" not in refusal

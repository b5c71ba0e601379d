"""Text to ids and back, and text in pieces that never have to be taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import ModelFileError, RequestError
from edge.formats.gguf_file import Header
from edge.tokenizer import TextStream, Tokenizer

MASK, EOS = 256, 257
KEY = "tokenizer.huggingface.json"
often = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def array(ids: list[int]) -> NDArray[np.int32]:
    return np.array(ids, np.int32)


@pytest.mark.parametrize("text", ["", "a b", "größer", "日本", "\n", "👍🏽"])
def test_there_and_back(byte_tokenizer: Tokenizer, text: str) -> None:
    ids = byte_tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == bytes_of(text)
    assert byte_tokenizer.decode(ids) == text


def test_special_tokens(byte_tokenizer: Tokenizer) -> None:
    ids = byte_tokenizer.encode("a<mask>b<end>")
    assert ids.tolist() == [97, MASK, 98, EOS]
    assert byte_tokenizer.decode(ids) == "ab"
    assert byte_tokenizer.piece(MASK) == "<mask>"
    assert byte_tokenizer.piece(97) == "a"


@pytest.mark.parametrize("text", ["a\ud800", "\udfff", "ab\udcffc"])
def test_lone_surrogates(byte_tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(RequestError, match="lone surrogate at character"):
        byte_tokenizer.encode(text)


def test_no_tokenizer_in_the_file() -> None:
    assert Tokenizer.from_header(Header("x.gguf", {}, {}, 0, 0)) is None


@pytest.mark.parametrize("stored", ["", "{}", "no json", '{"version":"1.0"}', 5, ["a"]])
def test_an_unusable_tokenizer_in_the_file(stored: Any) -> None:
    with pytest.raises(ModelFileError, match=f"{KEY}.*x.gguf") as caught:
        Tokenizer.from_header(Header("x.gguf", {KEY: stored}, {}, 0, 0))
    assert "\n" not in str(caught.value)


class TestTextStream:
    def test_holds_back_an_unfinished_character(self, byte_tokenizer: Tokenizer) -> None:
        stream, ids = TextStream(byte_tokenizer), bytes_of("a→b")
        pieces = [stream.advance(array(ids[: i + 1])) for i in range(len(ids))]
        assert pieces == [("a", [97]), ("", []), ("", []), ("→", ids[1:4]), ("b", [98])]

    def test_gives_up_holding_at_the_end(self, byte_tokenizer: Tokenizer) -> None:
        stream, ids = TextStream(byte_tokenizer), bytes_of("a→")[:3]
        assert stream.advance(array(ids)) == ("", [])
        assert stream.advance(array(ids), at_end=True) == ("a\N{REPLACEMENT CHARACTER}", ids)

    def test_a_replacement_character_in_the_text(self, byte_tokenizer: Tokenizer) -> None:
        stream, ids = TextStream(byte_tokenizer), bytes_of("\N{REPLACEMENT CHARACTER}x")
        assert stream.advance(array(ids[:3])) == ("", [])
        assert stream.advance(array(ids)) == ("\N{REPLACEMENT CHARACTER}x", ids)

    def test_nothing_new(self, byte_tokenizer: Tokenizer) -> None:
        stream = TextStream(byte_tokenizer)
        stream.advance(array([97]))
        assert stream.advance(array([97])) == ("", [])
        assert stream.advance(array([97]), at_end=True) == ("", [])

    def test_without_a_tokenizer_only_ids(self) -> None:
        stream = TextStream(None)
        assert stream.advance(array([5, 6])) == (None, [5, 6])
        assert stream.advance(array([5, 6, 7]), at_end=True) == (None, [7])

    @often
    @given(
        ids=st.one_of(
            st.text(max_size=20).map(bytes_of), st.lists(st.integers(0, EOS), max_size=30)
        ),
        cuts=st.lists(st.integers(0, 60)),
    )
    def test_the_pieces_are_the_whole(
        self, byte_tokenizer: Tokenizer, ids: list[int], cuts: list[int]
    ) -> None:
        stream = TextStream(byte_tokenizer)
        pieces = [stream.advance(array(ids[:cut])) for cut in sorted(cuts) if cut <= len(ids)]
        pieces.append(stream.advance(array(ids), at_end=True))
        assert "".join(text or "" for text, _ in pieces) == byte_tokenizer.decode(array(ids))
        assert [i for _, new in pieces for i in new] == ids


@often
@given(
    text=st.text(min_size=1, max_size=15),
    order=st.integers(0, 99),
    block_length=st.integers(1, 9),
    steps_per_block=st.integers(1, 9),
)
def test_a_request_s_commits_are_its_text(
    scripted: Callable[..., Any],
    byte_tokenizer: Tokenizer,
    text: str,
    order: int,
    block_length: int,
    steps_per_block: int,
) -> None:
    answer = bytes_of(text)[:100]
    run = scripted(
        bytes_of("prompt"),
        answer,
        np.random.default_rng(order).uniform(0, 1, len(answer)),
        tokenizer=byte_tokenizer,
        block_length=block_length,
        steps_per_block=steps_per_block,
    )
    assert run.result.text == bytes(answer).decode(errors="replace")
    assert "".join(commit.text for commit in run.commits) == run.result.text
    assert [i for commit in run.commits for i in commit.ids] == run.result.ids == answer


def test_no_text_of_what_comes_after_the_end_token(
    scripted: Callable[..., Any], byte_tokenizer: Tokenizer
) -> None:
    answer = [*bytes_of("ö"), EOS, *bytes_of("no")]
    run = scripted([1], answer, tokenizer=byte_tokenizer, steps_per_block=1, block_length=8)
    assert run.result.text == "ö"
    assert "".join(commit.text for commit in run.commits) == "ö"

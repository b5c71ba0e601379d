"""Text to ids and back, and text in pieces that never have to be taken back."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from edge.errors import ModelFileError, RequestError
from edge.formats.gguf_file import Header
from edge.template import Rendering
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


@pytest.mark.parametrize("ends", [False, True])
def test_texts_by_themselves_have_the_ends_of_one_text(ends: bool) -> None:
    made = HuggingFaceTokenizer(WordLevel({"?": 0, "a": 1, "b": 2, "<s>": 3, "</s>": 4}, "?"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(["<s>", "</s>"])
    if ends:
        single = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 3), ("</s>", 4)])
        made.post_processor = single
    tokenizer = Tokenizer(made)
    parts = [part.tolist() for part in tokenizer.encode_parts(["a b", "", "b"])]
    assert parts == ([[3, 1, 2], [], [2, 4]] if ends else [[1, 2], [], [2]])
    assert [part.tolist() for part in tokenizer.encode_parts([""])] == ([[3, 4]] if ends else [[]])
    assert tokenizer.encode_parts([]) == []
    assert [tokenizer.can_write(text) for text in ("a b", "c", "", " ")] == [True, *[False] * 3]


def test_control_tokens_are_plain_text_to_a_user(byte_tokenizer: Tokenizer) -> None:
    text = "a<mask>b<end>"
    ids = byte_tokenizer.encode(text)
    assert ids.tolist() == bytes_of(text)
    assert byte_tokenizer.decode(ids) == text
    assert byte_tokenizer.decode(array([97, MASK, 98, EOS])) == "ab"
    assert byte_tokenizer.piece(MASK) == "<mask>"
    assert byte_tokenizer.token(EOS) == "<end>"
    assert byte_tokenizer.token(258) is None


def rendering_of(*parts: tuple[str, bool], **changes: str) -> Rendering:
    """A rendering of (text, whether it is a message's) in a row."""
    marked = "".join("\ue000" * len(text) if is_message else text for text, is_message in parts)
    contents = tuple(text for text, is_message in parts if is_message)
    written = {"text": "".join(text for text, _ in parts), "marked": marked, **changes}
    return Rendering(**written, mark="\ue000", contents=contents)


def test_control_tokens_of_a_template(byte_tokenizer: Tokenizer) -> None:
    rendering = rendering_of(("<end>x", False), ("<end><mask>", True), ("<mask>", False))
    ids = byte_tokenizer.encode_rendering(rendering)
    assert ids.tolist() == [EOS, *bytes_of("x<end><mask>"), MASK]


def test_a_message_cannot_complete_a_control_token(byte_tokenizer: Tokenizer) -> None:
    rendering = rendering_of(("<", False), ("end", True), (">", False))
    assert byte_tokenizer.encode_rendering(rendering).tolist() == bytes_of("<end>")


def test_where_nobody_can_tell_whose_a_control_token_is(byte_tokenizer: Tokenizer) -> None:
    moved = rendering_of(("<end>", False), ("a<end>", True), marked="?")
    with pytest.raises(RequestError, match=r"'<end>'.*take it out"):
        byte_tokenizer.encode_rendering(moved)
    clear = rendering_of(("<end>", False), ("a<mask", True), marked="?")
    assert byte_tokenizer.encode_rendering(clear).tolist() == [EOS, *bytes_of("a<mask")]


@often
@given(st.lists(st.tuples(st.sampled_from(["<end>", "<mask>", "<e", "nd>", "x"]), st.booleans())))
def test_only_the_template_gives_control_tokens(
    byte_tokenizer: Tokenizer, parts: list[tuple[str, bool]]
) -> None:
    merged = [
        ("".join(text for text, _ in group), is_message)
        for is_message, group in groupby(parts, key=lambda part: part[1])
    ]
    wanted = sum(len(re.findall("<end>|<mask>", text)) for text, is_users in merged if not is_users)
    ids = byte_tokenizer.encode_rendering(rendering_of(*merged))
    assert np.isin(ids, (MASK, EOS)).sum() == wanted


def test_added_tokens_swallow_white_space_as_the_library_does() -> None:
    added = AddedToken("[M]", lstrip=True, rstrip=True, normalized=False, special=True)
    made = HuggingFaceTokenizer(WordLevel({"x": 0, "y": 1}, unk_token="x"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens([added])
    wanted = made.encode("x  [M]  y").ids
    assert Tokenizer(made).encode_rendering(rendering_of(("x  [M]  y", False))).tolist() == wanted


@pytest.mark.parametrize("text", ["a\ud800", "\udfff", "ab\udcffc"])
def test_lone_surrogates(byte_tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(RequestError, match="lone surrogate at character"):
        byte_tokenizer.encode(text)


def test_no_tokenizer_in_the_file(model_config: Callable[..., Any]) -> None:
    assert Tokenizer.from_header(Header("x.gguf", {}, {}, 0, 0), model_config()) is None


@pytest.mark.parametrize("stored", ["", "{}", "no json", '{"version":"1.0"}', 5, ["a"]])
def test_an_unusable_tokenizer_in_the_file(stored: Any, model_config: Callable[..., Any]) -> None:
    with pytest.raises(ModelFileError, match=f"{KEY}.*x.gguf") as caught:
        Tokenizer.from_header(Header("x.gguf", {KEY: stored}, {}, 0, 0), model_config())
    assert "\n" not in str(caught.value)


def file_with(tokens: list[AddedToken]) -> Header:
    """A file whose tokenizer has these added tokens from id 256 on."""
    made = HuggingFaceTokenizer(WordLevel({f"w{i}": i for i in range(256)}, unk_token="w0"))
    made.pre_tokenizer = Whitespace()
    made.add_tokens(tokens)
    return Header("x.gguf", {KEY: made.to_str()}, {}, 0, 0)


def test_mask_and_end_are_control_tokens_whatever_the_tokenizer_says(
    model_config: Callable[..., Any],
) -> None:
    plain = [AddedToken(text, special=False) for text in ("<mask>", "<end>", "<think>")]
    tokenizer = Tokenizer.from_header(file_with(plain), model_config())
    assert tokenizer is not None
    assert not np.isin(tokenizer.encode("w1<mask>w2<end>"), (MASK, EOS)).any()
    assert 258 in tokenizer.encode("w1<think>w2")  # everyone may write this one
    assert tokenizer.decode(array([1, MASK, EOS])) == "w1"


def test_holes_are_written_as_mask_tokens_where_the_canvas_is_the_prompt(
    model_config: Callable[..., Any],
) -> None:
    special = [AddedToken(text, special=True) for text in ("<mask>", "<end>")]
    config = model_config(canvas="in_place", canvas_length=4)
    tokenizer = Tokenizer.from_header(file_with(special), config)
    assert tokenizer is not None
    ids = tokenizer.encode("w1<mask>w2<end>").tolist()
    assert ids[:3] == [1, MASK, 2]
    assert EOS not in ids


class TestMissingBytes:
    def test_are_left_out_with_a_warning(
        self, byte_tokenizer_without: Callable[..., Tokenizer], caplog: pytest.LogCaptureFixture
    ) -> None:
        tokenizer = byte_tokenizer_without(0x04, 0xC3)
        assert tokenizer.missing_bytes == {0x04, 0xC3}
        assert tokenizer.encode("ab").tolist() == [97, 98]
        assert not caplog.records
        assert tokenizer.encode("a\x04b").tolist() == [97, 98]
        assert "no token for the bytes 0x04" in caplog.text

    def test_of_a_whole_alphabet_there_are_none(self, byte_tokenizer: Tokenizer) -> None:
        assert not byte_tokenizer.missing_bytes


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

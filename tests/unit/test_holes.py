"""Templates: what is a hole, what is text, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RequestError
from edge.holes import MAX_PIECES, Hole, checked_pieces, parse_template


@pytest.mark.parametrize(
    ("template", "pieces"),
    [
        ("[[MASK:1]]", [Hole(1)]),
        ("a[[MASK:12]]b", ["a", Hole(12), "b"]),
        ("[[MASK:3]][[MASK:4]]", [Hole(3), Hole(4)]),
        ("é\n[[MASK:007]]", ["é\n", Hole(7)]),
        ("[[[MASK:2]]]", ["[", Hole(2), "]"]),
        ("[[mask:2]] [MASK:3] [[ MASK:4]]", ["[[mask:2]] [MASK:3] [[ MASK:4]]"]),
        ("", []),
        ("[[MASK:999999999]]", [Hole(999_999_999)]),
    ],
)
def test_a_template_is_texts_and_holes(template: str, pieces: list[Any]) -> None:
    assert parse_template(template) == pieces


@pytest.mark.parametrize(
    "hole",
    [
        "[[MASK]]",
        "[[MASK:]]",
        "[[MASK:0]]",
        "[[MASK:00]]",
        "[[MASK:-1]]",
        "[[MASK:+1]]",
        "[[MASK: 1]]",
        "[[MASK:1.5]]",
        "[[MASK:1e3]]",
        "[[MASK:٣]]",
        "[[MASK:12]",
        "[[MASK:12",
        "[[MASK",
        "[[MASKS:12]]",
        "[[MASK:1234567890]]",
        "[[MASK:" + "9" * 5000 + "]]",
    ],
)
def test_what_begins_like_a_hole_and_is_none_is_one_line(hole: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_template(f"abc\x1b{hole}\nend")
    text = str(caught.value)
    assert "at character 4 is no hole" in text
    assert "[[MASK:12]]" in text
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 300


@given(st.lists(st.one_of(st.text(max_size=5), st.integers(1, 10**8).map(Hole)), max_size=8))
def test_a_written_template_is_read_back(pieces: list[str | Hole]) -> None:
    def written(piece: str | Hole) -> str:
        return piece if isinstance(piece, str) else f"[[MASK:{piece.max_tokens}]]"

    read = parse_template("".join(map(written, pieces)))
    assert "".join(map(written, read)) == "".join(map(written, pieces))
    assert [p for p in read if isinstance(p, Hole)] == [p for p in pieces if isinstance(p, Hole)]


@pytest.mark.parametrize("number", [0, -1, 1.5, True, None, "3", float("nan")])
def test_a_hole_needs_a_size(number: Any) -> None:
    with pytest.raises(RequestError, match="a hole is of"):
        Hole(number)


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ("a[[MASK:3]]", "of type str.*edge.Hole"),
        (None, "of type NoneType"),
        ({"a": 1}, "of type dict"),
        ([], "no hole"),
        (["a", "b"], "no hole"),
        (["a", 3], "a piece of the template is of type int"),
        ([b"a", Hole(1)], "of type bytes"),
        ([Hole(1)] * (MAX_PIECES + 1), "65537 pieces"),
    ],
)
def test_what_cannot_be_filled(pieces: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        checked_pieces(pieces)

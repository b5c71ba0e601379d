"""Every error is one line: WHAT (FILE[:offset]) - WHAT TO DO."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import errors
from edge.errors import EdgeError, ModelFileError, RequestError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EdgeError) and kind is not ModelFileError
]


def test_the_parts_of_the_line() -> None:
    assert str(EdgeError("no")) == "no"
    assert str(EdgeError("no", hint="try")) == "no - try"
    assert str(EdgeError("no", path="a/b")) == "no (a/b)"
    assert str(EdgeError("no", path="a/b", offset=0, hint="try")) == "no (a/b:0) - try"


def test_a_file_s_error() -> None:
    error = ModelFileError("m.gguf", 12, "the magic is wrong")
    assert (error.path, error.offset, error.reason) == ("m.gguf", 12, "the magic is wrong")
    assert str(error).startswith("the magic is wrong (m.gguf:12) - ")


def test_the_caller_s_fault_is_a_value_error() -> None:
    assert issubclass(RequestError, ValueError)
    assert issubclass(errors.ContextLengthError, RequestError)


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_edge_errors_and_documented(kind: type[EdgeError]) -> None:
    assert kind.__doc__
    assert kind.__name__ in (errors.__doc__ or "")


@given(
    what=st.text(),
    path=st.none() | st.text(),
    offset=st.none() | st.integers(0, 1 << 40),
    hint=st.text(),
)
def test_always_one_line(what: str, path: str | None, offset: int | None, hint: str) -> None:
    for error in (
        EdgeError(what, path=path, offset=offset, hint=hint),
        ModelFileError(path, offset, what, hint=hint),
    ):
        assert len(f"{error}.".splitlines()) == 1
        assert str(error).isprintable()


@given(text=st.text().filter(str.isprintable))
def test_printable_text_is_not_changed(text: str) -> None:
    assert str(EdgeError(text)) == text

"""Files whose keys lie about tensors in our own types: refused by name, before any byte is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge

Write = Callable[[bytes], Path]
Run = Callable[[Path], edge.EdgeError | None]
Apart = Callable[[bytes], Any]
NAMES, COLS, GROUPS, MINIMA = (
    f"edge.tensor.{name}" for name in ("names", "cols", "group_size", "has_minima")
)
COUNT = 9  # tensors of the small file that are quantized


@pytest.fixture(params=["int8", "int4"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def own(small_files: dict[str, bytes], take_apart: Apart, kind: str) -> Any:
    return take_apart(small_files[kind])


def names(own: Any) -> list[str]:
    return [tensor.name.decode() for tensor in own.tensors if b".edge_" in tensor.name]


def test_the_small_files_run(
    small_files: dict[str, bytes], write: Write, load_and_run: Run, own: Any, kind: str
) -> None:
    assert len(names(own)) == COUNT
    assert load_and_run(write(small_files[kind])) is None


@pytest.mark.parametrize("key", [NAMES, COLS, GROUPS, MINIMA])
def test_a_missing_key(own: Any, write: Write, load_and_run: Run, key: str) -> None:
    del own.keys[key.encode()]
    error = load_and_run(write(own.encode()))
    assert isinstance(error, edge.ModelFileError)
    assert "some are missing" in str(error)


def test_no_key_at_all(own: Any, write: Write, load_and_run: Run) -> None:
    for key in (NAMES, COLS, GROUPS, MINIMA):
        del own.keys[key.encode()]
    error = load_and_run(write(own.encode()))
    assert isinstance(error, edge.ModelFileError)
    assert "is not described by the keys edge.tensor.*" in str(error)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (COLS, ("[u32]", [64] * COUNT), "64 columns"),
        (COLS, ("[u32]", [31] * COUNT), "31 columns in groups of 32"),
        (COLS, ("[u32]", [0] * COUNT), "0 columns"),
        (COLS, ("[u64]", [2**63] * COUNT), "columns"),
        (COLS, ("[u64]", [2**64 - 32] * COUNT), "columns"),
        (COLS, ("[u32]", [32] * (COUNT - 1)), "different lengths"),
        (COLS, ("[i32]", [32] * COUNT), "no array of the kind"),
        (COLS, ("u32", 32), "no array of the kind"),
        (GROUPS, ("[u32]", [0] * COUNT), "groups of 0"),
        (GROUPS, ("[u32]", [16] * COUNT), "groups of 16"),
        (GROUPS, ("[u32]", [64] * COUNT), "groups of 64"),
        (GROUPS, ("[u64]", [2**63] * COUNT), "groups of 9223372036854775808"),
        (GROUPS, ("[u32]", [32] * (COUNT + 1)), "different lengths"),
        (MINIMA, ("[u32]", [1] * COUNT), "no array of the kind"),
        (MINIMA, ("[bool]", []), "different lengths"),
    ],
)
def test_a_lie(
    own: Any,
    write: Write,
    load_and_run: Run,
    key: str,
    value: tuple[str, Any],
    reason: str,
) -> None:
    own.set(key, *value)
    error = load_and_run(write(own.encode()))
    assert isinstance(error, edge.ModelFileError)
    assert reason in str(error)


def test_minima_that_are_not_there(own: Any, write: Write, load_and_run: Run, kind: str) -> None:
    own.set(MINIMA, "[bool]", [kind == "int8"] * COUNT)
    error = load_and_run(write(own.encode()))
    assert isinstance(error, edge.ModelFileError)
    assert ("with minima" if kind == "int8" else "bytes, 18 are needed") in str(error)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda given: [*given[:-1], "nonsense"], "is not described|no tensor of that kind"),
        (lambda given: [*given[:-1], given[0]], "twice"),
        (lambda given: [*given[:-1], given[-1].split(".edge")[0]], "is not described"),
    ],
)
def test_names_that_lie(
    own: Any, write: Write, load_and_run: Run, change: Callable[[Any], Any], reason: str
) -> None:
    own.set(NAMES, "[string]", change(names(own)))
    error = load_and_run(write(own.encode()))
    assert isinstance(error, edge.ModelFileError)
    assert any(part in str(error) for part in reason.split("|"))


def test_one_tensor_in_two_types(own: Any, write: Write, load_and_run: Run) -> None:
    first, second = [tensor for tensor in own.tensors if b".edge_" in tensor.name][:2]
    second.name = first.name.partition(b".edge_")[0]  # its bytes, as what they are
    own.set(NAMES, "[string]", names(own))
    for key, value in ((COLS, 32), (GROUPS, 32)):
        own.set(key, "[u32]", [value] * (COUNT - 1))
    own.set(MINIMA, "[bool]", [first.name.endswith(b"int4")] * (COUNT - 1))
    error = load_and_run(write(own.encode()))
    assert isinstance(error, edge.ModelFileError)
    assert "is in the file in two types" in str(error)


def test_any_values_are_refused_or_run(
    own: Any, take_apart: Apart, write: Write, load_and_run: Run
) -> None:
    sizes = st.sampled_from([0, 1, 16, 32, 33, 64, 128, 2**31, 2**32 - 1])
    arrays = st.lists(sizes, min_size=COUNT - 1, max_size=COUNT + 1)
    whole = own.encode()

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(arrays, arrays, st.lists(st.integers(0, 1), min_size=COUNT, max_size=COUNT))
    def check(cols: list[int], groups: list[int], minima: list[int]) -> None:
        changed = take_apart(whole)
        changed.set(COLS, "[u32]", cols)
        changed.set(GROUPS, "[u32]", groups)
        changed.set(MINIMA, "[bool]", minima)
        load_and_run(write(changed.encode()))

    check()

"""The canvas: what is committed stays, what is a hole is known by its flag, not by its id."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.canvas import Canvas, blocks_of

MASK = 9


def ids(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def test_append_keeps_the_prompt_whatever_it_holds() -> None:
    canvas = Canvas.append(ids(1, MASK, 2), 2, MASK)
    assert canvas.ids.tolist() == [1, MASK, 2, MASK, MASK]
    assert canvas.holes().tolist() == [3, 4]
    assert canvas.output_start == 3
    assert len(canvas) == 5


def test_in_place_takes_mask_tokens_as_holes() -> None:
    prompt = ids(1, MASK, 2, MASK)
    canvas = Canvas.in_place(prompt, MASK)
    assert canvas.holes().tolist() == [1, 3]
    assert canvas.output_start == 0
    canvas.commit(ids(1), ids(5))
    assert canvas.ids.tolist() == [1, 5, 2, MASK]
    assert prompt.tolist() == [1, MASK, 2, MASK]  # the caller's array stays his


def test_an_empty_prompt() -> None:
    canvas = Canvas.append(ids(), 2, MASK)
    assert canvas.holes().tolist() == [0, 1]
    assert canvas.committed_prefix().tolist() == []


def test_a_form_has_holes_where_it_says() -> None:
    canvas = Canvas.form(ids(1, 1, 2, MASK, 1), [(0, 2), (4, 5)], 0, MASK, (7,))
    assert canvas.ids.tolist() == [MASK, MASK, 2, MASK, MASK]
    assert canvas.holes().tolist() == [0, 1, 4]
    assert canvas.given.tolist() == [False, False, True, True, False]
    assert canvas.is_form
    with pytest.raises(ValueError, match="cannot be committed again"):
        canvas.commit(ids(3), ids(5))
    with pytest.raises(ValueError, match="only what was committed"):
        canvas.remask(ids(2))


@pytest.mark.parametrize("order", [[1, 3], [3, 1]])
def test_an_end_token_closes_the_rest_of_its_own_hole(order: list[int]) -> None:
    canvas = Canvas.form(ids(*[0] * 8), [(0, 5), (6, 8)], 0, MASK, (7, 8))
    for position in order:
        canvas.commit(ids(position), ids(7 if position == 1 else 5))
        assert canvas.committed[1:5].all() == (position == 1 or order[0] == 1)
        if canvas.committed[4]:
            break
    assert canvas.ids.tolist()[:5] == [MASK, 7, 7, 5 if order[0] == 3 else 7, 7]
    assert canvas.holes().tolist() == [0, 6, 7]


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(0, None, [2, 4, 5]), (3, 5, [4]), (4, None, [4, 5]), (6, 6, [])],
)
def test_holes_of_a_range(start: int, stop: int | None, expected: list[int]) -> None:
    canvas = Canvas.append(ids(1, 2), 4, MASK)
    canvas.commit(ids(3), ids(7))
    assert canvas.holes(start, stop).tolist() == expected
    assert canvas.holes(start, stop).dtype == np.int32


@pytest.mark.parametrize("position", [0, 2])
def test_what_is_committed_cannot_be_committed_again(position: int) -> None:
    canvas = Canvas.append(ids(1, 2), 2, MASK)
    canvas.commit(ids(2), ids(5))
    with pytest.raises(ValueError, match="cannot be committed again"):
        canvas.commit(ids(3, position), ids(6, 6))
    assert canvas.ids.tolist() == [1, 2, 5, MASK]
    assert canvas.holes().tolist() == [3]


def test_the_mask_token_cannot_be_committed() -> None:
    canvas = Canvas.append(ids(1), 2, MASK)
    with pytest.raises(ValueError, match="mask token"):
        canvas.commit(ids(1, 2), ids(5, MASK))
    assert canvas.holes().tolist() == [1, 2]


def test_where_the_mask_is_a_token_it_stays_a_hole() -> None:
    canvas = Canvas.append(ids(1), 2, MASK)
    canvas.commit(ids(1, 2), ids(5, MASK), mask_is_a_token=True)
    assert canvas.ids.tolist() == [1, 5, MASK]
    assert canvas.holes().tolist() == [2]


def test_the_committed_prefix_ends_at_the_first_hole() -> None:
    canvas = Canvas.append(ids(1), 3, MASK)
    canvas.commit(ids(2), ids(6))
    assert canvas.committed_prefix().tolist() == []
    canvas.commit(ids(1), ids(5))
    assert canvas.committed_prefix().tolist() == [5, 6]
    canvas.commit(ids(3), ids(7))
    assert canvas.committed_prefix().tolist() == [5, 6, 7]


@given(prompt=st.integers(0, 20), new=st.integers(1, 60), block_length=st.integers(1, 70))
def test_blocks_cover_the_answer_once(prompt: int, new: int, block_length: int) -> None:
    canvas = Canvas.append(np.zeros(prompt, np.int32), new, MASK)
    blocks = [(b.start, b.stop) for b in blocks_of(canvas, block_length, canvas.output_start)]
    covered = [position for start, stop in blocks for position in range(start, stop)]
    assert covered == list(range(prompt, prompt + new))
    assert all(stop - start == block_length for start, stop in blocks[:-1])
    assert 0 < blocks[-1][1] - blocks[-1][0] <= block_length


def test_only_what_was_committed_is_edited() -> None:
    canvas = Canvas.append(np.array([1, 2], np.int32), 4, MASK)
    canvas.commit(np.array([2, 4], np.int32), np.array([7, 8], np.int32))
    assert canvas.editable(0, 6).tolist() == [2, 4]
    canvas.edit(np.array([4], np.int32), np.array([6], np.int32))
    assert canvas.ids.tolist() == [1, 2, 7, MASK, 6, MASK]
    for position in (0, 3):
        with pytest.raises(ValueError, match="edited"):
            canvas.edit(np.array([position], np.int32), np.array([5], np.int32))
    with pytest.raises(ValueError, match="mask"):
        canvas.edit(np.array([2], np.int32), np.array([MASK], np.int32))
    canvas.edit(np.array([2], np.int32), np.array([MASK], np.int32), mask_is_a_token=True)
    assert canvas.holes().tolist() == [2, 3, 5]

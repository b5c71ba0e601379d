"""What a step may take from the cache, and what it leaves there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge import _native

LENGTH = 48
CAPACITY = 64
IDS = np.random.default_rng(5).integers(0, 38, LENGTH).astype(np.int32)

Step = Callable[..., _native.StepOutput]
Fields = Callable[..., dict[str, NDArray[Any]]]
Content = Callable[[_native.KvCache], list[NDArray[Any]]]

few = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module", params=["f32", "q8_0"])
def model(
    request: pytest.FixtureRequest,
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
) -> _native.Denoiser:
    return denoiser(converted(checkpoint(n_kv_heads=2, n_layers=3), request.param), threads=2)


def same(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


@st.composite
def masks_and_chunks(draw: st.DrawFn) -> tuple[_native.AttentionMask, list[tuple[int, int]]]:
    """A causal mask with chunks of any sizes, or a block mask with chunks of whole blocks."""
    if draw(st.booleans()):
        mask, ends = _native.AttentionMask("causal"), range(1, LENGTH)
    else:
        length = draw(st.integers(1, 16))
        origin = draw(st.integers(0, 2 * length))
        mask = _native.AttentionMask("block", length, origin)
        ends = range(origin % length or length, LENGTH, length)
    cuts = sorted(draw(st.sets(st.sampled_from(ends), max_size=8)) if ends else [])
    bounds = [0, *cuts, LENGTH]
    return mask, list(pairwise(bounds))


@few
@given(masks_and_chunks())
def test_chunks_of_any_size_equal_one_forward(
    model: _native.Denoiser,
    step: Step,
    head_fields: Fields,
    cache_content: Content,
    case: tuple[_native.AttentionMask, list[tuple[int, int]]],
) -> None:
    mask, chunks = case
    whole = _native.KvCache(model, CAPACITY)
    full = head_fields(step(model, IDS, cache=whole, store=True, mask=mask))
    pieces = _native.KvCache(model, CAPACITY)
    for start, stop in chunks:
        piece = step(
            model, IDS[start:stop], range(start, stop), cache=pieces, store=True, mask=mask
        )
        assert same(head_fields(piece), {k: v[start:stop] for k, v in full.items()})
    for one, other in zip(cache_content(whole), cache_content(pieces), strict=True):
        assert np.array_equal(one, other)


@few
@given(
    mask=st.sampled_from([("full", 0, 0), ("causal", 0, 0), ("block", 8, 3)]),
    active=st.sets(st.integers(0, LENGTH - 1), min_size=1).map(sorted),
)
def test_any_active_rows_with_the_rest_cached_equal_the_full_forward(
    model: _native.Denoiser,
    step: Step,
    head_fields: Fields,
    mask: tuple[str, int, int],
    active: list[int],
) -> None:
    native_mask = _native.AttentionMask(*mask)
    cache = _native.KvCache(model, CAPACITY)
    full = step(model, IDS, cache=cache, store=True, mask=native_mask)
    part = step(model, IDS[active], active, cache=cache, mask=native_mask)
    assert same(head_fields(part), head_fields(full, active))


def test_a_forward_with_an_empty_cache_is_one_without(
    model: _native.Denoiser, step: Step, head_fields: Fields
) -> None:
    cache = _native.KvCache(model, LENGTH)
    with_cache = head_fields(step(model, IDS, cache=cache, store=True))
    assert same(with_cache, head_fields(step(model, IDS)))
    assert cache.valid().all()


def test_slots_that_hold_nothing_are_not_seen(
    model: _native.Denoiser, step: Step, head_fields: Fields
) -> None:
    """Cached 0-2, active 5-9: the same as computing these eight and nothing between."""
    mask = _native.AttentionMask("causal")
    positions = [0, 1, 2, 5, 6, 7, 8, 9]
    wanted = step(model, IDS[positions], positions, mask=mask)
    cache = _native.KvCache(model, CAPACITY)
    step(model, IDS[:3], cache=cache, store=True, mask=mask)
    part = step(model, IDS[5:10], range(5, 10), cache=cache, mask=mask)
    assert same(head_fields(part), head_fields(wanted, slice(3, None)))


def test_truncated_slots_are_not_seen(
    model: _native.Denoiser, step: Step, head_fields: Fields
) -> None:
    cache = _native.KvCache(model, CAPACITY)
    step(model, IDS, cache=cache, store=True, mask=_native.AttentionMask("causal"))
    cache.truncate(10)
    assert cache.valid().tolist() == [True] * 10 + [False] * (CAPACITY - 10)
    again = step(model, IDS[10:20], range(10, 20), cache=cache)  # full attention
    fresh = _native.KvCache(model, CAPACITY)
    step(model, IDS[:10], cache=fresh, store=True, mask=_native.AttentionMask("causal"))
    wanted = step(model, IDS[10:20], range(10, 20), cache=fresh)
    assert same(head_fields(again), head_fields(wanted))


@pytest.mark.parametrize("length", [-5, 0])
def test_truncate_to_nothing(model: _native.Denoiser, step: Step, length: int) -> None:
    cache = _native.KvCache(model, CAPACITY)
    step(model, IDS, cache=cache, store=True)
    cache.truncate(length)
    assert not cache.valid().any()


@pytest.mark.parametrize("capacity", [10, 20, 33, 64])
def test_a_larger_cache_holds_the_same(
    model: _native.Denoiser,
    step: Step,
    head_fields: Fields,
    cache_content: Content,
    capacity: int,
) -> None:
    mask = _native.AttentionMask("causal")
    small, large = _native.KvCache(model, capacity), _native.KvCache(model, CAPACITY)
    for cache in (small, large):
        step(model, IDS[:10], cache=cache, store=True, mask=mask)
    small.reserve(CAPACITY)
    small.reserve(5)  # there is more room than that
    assert all(map(np.array_equal, cache_content(small), cache_content(large)))
    rest = {"positions": range(10, LENGTH), "store": True, "mask": mask}
    figures = [head_fields(step(model, IDS[10:], cache=c, **rest)) for c in (small, large)]
    assert same(*figures)
    assert all(map(np.array_equal, cache_content(small), cache_content(large)))


def test_room_beyond_any_context_is_refused(model: _native.Denoiser, step: Step) -> None:
    cache = _native.KvCache(model, 16)
    step(model, IDS[:10], cache=cache, store=True)
    with pytest.raises(ValueError, match="capacity is at most"):
        cache.reserve(1 << 50)
    assert cache.valid()[:10].all()


def test_truncate_beyond_the_end_forgets_nothing(model: _native.Denoiser, step: Step) -> None:
    cache = _native.KvCache(model, LENGTH)
    step(model, IDS, cache=cache, store=True)
    cache.truncate(10_000)
    assert cache.valid().all()


def test_without_store_the_cache_stays_as_it_was(
    model: _native.Denoiser, step: Step, cache_content: Content
) -> None:
    cache = _native.KvCache(model, CAPACITY)
    step(model, IDS[:20], cache=cache, store=True)
    before = cache_content(cache)
    step(model, IDS[::-1], cache=cache, store=False)
    for one, other in zip(before, cache_content(cache), strict=True):
        assert np.array_equal(one, other)


def test_storing_replaces_what_was_there(
    model: _native.Denoiser, step: Step, cache_content: Content
) -> None:
    cache, fresh = _native.KvCache(model, CAPACITY), _native.KvCache(model, CAPACITY)
    step(model, IDS[::-1], cache=cache, store=True)
    step(model, IDS, cache=cache, store=True)
    step(model, IDS, cache=fresh, store=True)
    for one, other in zip(cache_content(cache), cache_content(fresh), strict=True):
        assert np.array_equal(one, other)


def test_a_store_forward_needs_no_head_rows(
    model: _native.Denoiser, step: Step, cache_content: Content
) -> None:
    with_head, without = _native.KvCache(model, CAPACITY), _native.KvCache(model, CAPACITY)
    step(model, IDS, cache=with_head, store=True)
    output = step(model, IDS, head_rows=[], cache=without, store=True)
    assert len(output.top1) == 0
    for one, other in zip(cache_content(with_head), cache_content(without), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("mask", [("causal", 0, 0), ("block", 4, 0)])
def test_the_mask_is_needed_for_exactness(
    model: _native.Denoiser, step: Step, head_fields: Fields, mask: tuple[str, int, int]
) -> None:
    """What the tests above rest on: rows do differ when later keys are seen."""
    some = head_fields(step(model, IDS, mask=_native.AttentionMask(*mask)))
    every = head_fields(step(model, IDS))
    assert not np.array_equal(some["log_z"][:8], every["log_z"][:8])

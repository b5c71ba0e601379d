"""Several continuations in one step: each is computed as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gated_model import MASK, Gated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert import convert
from edge import _native

TYPES = ("f32", "bf16", "int8", "int4", "q8_0", "q4_0")
CAUSAL = _native.AttentionMask("causal")
CONTEXT = 128

Step = Callable[..., Any]


@pytest.fixture(scope="module")
def engines(
    denoiser: Callable[..., _native.Denoiser], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str, int], _native.Denoiser]:
    folder = tmp_path_factory.mktemp("gated")
    base, adapter = Gated.random(rank=32).write(folder)
    found = {}
    for type in TYPES:
        path = folder / f"{type}.gguf"
        convert(base, path, type, method="nearest", gated_adapter=adapter)
        for kv in ("f32", "bf16", "int8"):
            for threads in (1, 2):
                found[type, kv, threads] = denoiser(path, kv=kv, threads=threads)
    return found


def filled(engine: _native.Denoiser, step: Step, ids: Any) -> _native.KvCache:
    cache = _native.KvCache(engine, CONTEXT)
    if len(ids):
        step(engine, ids, head_rows=[], cache=cache, store=True, mask=CAUSAL)
    return cache


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    key=st.tuples(
        st.sampled_from(TYPES), st.sampled_from(["f32", "bf16", "int8"]), st.sampled_from([1, 2])
    ),
    context=st.integers(0, 40),
    trunk=st.integers(1, 9),
    data=st.data(),
)
def test_rows_are_those_of_steps_of_their_own(
    engines: Any, step: Step, head_fields: Any, key: Any, context: int, trunk: int, data: Any
) -> None:
    engine = engines[key]
    ids = np.random.default_rng(context).integers(0, 40, context + trunk).astype(np.int32)
    branches = data.draw(
        st.lists(st.tuples(st.integers(1, 6), st.integers(1, trunk)), min_size=1, max_size=4)
    )
    before, clean = ids[:context], ids[context:]
    places = np.arange(context, context + trunk)
    own = [context + seen + np.arange(rows) for rows, seen in branches]
    masks = np.full(sum(rows for rows, _ in branches), MASK, np.int32)
    cache = filled(engine, step, before)
    together = step(
        engine,
        np.concatenate([clean, masks]),
        np.concatenate([places, *own]),
        gated_rows=np.arange(trunk, trunk + len(masks), dtype=np.int32),
        branches=branches,
        cache=cache,
        store=True,
        num_stored=trunk,
        mask=CAUSAL,
    )
    assert np.flatnonzero(cache.valid()).tolist() == list(range(context + trunk))
    figures = head_fields(together)
    plain = head_fields(
        step(engine, clean, places, cache=filled(engine, step, before), mask=CAUSAL)
    )
    first = trunk
    for (rows, seen), positions in zip(branches, own, strict=True):
        alone = head_fields(
            step(
                engine,
                np.full(rows, MASK, np.int32),
                positions,
                gated_rows=np.arange(rows, dtype=np.int32),
                cache=filled(engine, step, ids[: context + seen]),
                mask=CAUSAL,
            )
        )
        for name, values in figures.items():
            assert np.array_equal(values[:trunk], plain[name]), name
            assert np.array_equal(values[first : first + rows], alone[name]), name
        first += rows


def test_a_branch_of_plain_rows_needs_no_adapter(
    engines: Any, step: Step, head_fields: Any
) -> None:
    engine = engines["q8_0", "bf16", 1]
    figures = head_fields(
        step(engine, [3, 5, 7, 8, 9], [0, 1, 2, 1, 2], branches=[(2, 1)], mask=CAUSAL)
    )
    full = _native.AttentionMask("causal_context", origin=1)
    alone = head_fields(step(engine, [3, 8, 9], mask=full))
    for name, values in figures.items():
        assert np.array_equal(values[[0, 3, 4]], alone[name])


def test_steps_that_cannot_be(engines: Any, step: Step) -> None:
    engine = engines["f32", "f32", 1]
    cache = _native.KvCache(engine, 40)
    for ids, positions, options in (
        ([1, 2], [0, 1], {"branches": [(2, 1)]}),
        ([1, 2], [0, 1], {"branches": [(0, 1)]}),
        ([1, 2], [0, 1], {"branches": [(-1, 1)]}),
        ([1, 2, 3], [0, 1, 2], {"branches": [(2**62, 1), (2**62, 1)]}),
        ([1, 2], [0, 1], {"branches": [(1, 2)]}),
        ([1, 2], [0, 1], {"branches": [(1, 0)]}),
        ([1, 2, 3], [0, 1, 1], {"branches": [(1, 2)]}),
        ([1, 2, 3], [0, 2, 1], {"branches": [(2, 1)]}),
        ([1, 2, 3], [1, 0, 2], {"branches": [(1, 2)]}),
        ([1, 2], [0, 1], {"branches": [(1, 1)], "cache": cache, "store": True}),
        ([1, 2], [0, 1], {"branches": [(1, 1)], "cache": cache, "store": True, "num_stored": 2}),
        ([1, 2], [0, 128], {"branches": [(1, 1)]}),
        ([1, 2], [0, 40], {"branches": [(1, 1)], "cache": cache}),
    ):
        with pytest.raises(ValueError, match=r"branch|ascend|position"):
            step(engine, ids, positions, mask=CAUSAL, **options)

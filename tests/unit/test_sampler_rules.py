"""What every rule must obey, and the two that commit by runs of holes and by a growing quota."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import samplers
from edge.canvas import RowStats
from edge.errors import RequestError
from edge.samplers.base import BlockProgress, SamplerOptions
from edge.samplers.block_refinement import BlockRefinement
from edge.samplers.hierarchical import Hierarchical

MASK = 256
# A schedule of counts may give a step none; the floor under it does.
COUNTED = {"timestep", "linear_schedule", "low_confidence_static", "random", "sequential"}
few = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
confidences = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=24)


def stats(confidence: Any, positions: Any = None) -> RowStats:
    values = np.asarray(confidence, np.float32)
    places = np.arange(len(values)) if positions is None else np.asarray(positions)
    return RowStats(places.astype(np.int32), places.astype(np.int32), values, values, 1 - values)


@given(
    name=st.sampled_from(samplers.names()),
    confidence=confidences,
    num_steps=st.integers(1, 30),
    data=st.data(),
)
def test_a_choice_is_made_of_rows_each_once_and_the_same_again(
    name: str, confidence: list[float], num_steps: int, data: st.DataObject
) -> None:
    rule = samplers.find(name)(SamplerOptions())
    step = data.draw(st.integers(0, num_steps - 1))
    progress = BlockProgress(step, num_steps, len(confidence) + step, step)
    chosen = rule.choose(stats(confidence), progress).tolist()
    assert sorted(set(chosen)) == sorted(chosen)
    assert set(chosen) <= set(range(len(confidence)))
    assert chosen or name in COUNTED
    assert rule.choose(stats(confidence), progress).tolist() == chosen


@given(name=st.sampled_from(sorted(set(samplers.names()) - {"random"})), count=st.integers(1, 40))
def test_of_equal_rows_the_first_positions_win(name: str, count: int) -> None:
    rule = samplers.find(name)(SamplerOptions())
    chosen = rule.choose(stats([0.5] * count), BlockProgress(0, count, count, 0))
    assert sorted(chosen.tolist()) == list(range(len(chosen)))


@few
@given(
    name=st.sampled_from([n for n in samplers.names() if not samplers.decodes_in_order(n)]),
    confidence=st.lists(st.floats(0, 1, width=32), min_size=11, max_size=11),
    steps=st.integers(3, 11),
)
def test_a_step_commits_within_its_block_and_never_the_mask(
    scripted: Callable[..., Any], name: str, confidence: list[float], steps: int
) -> None:
    run = scripted([1, 2], range(40, 51), confidence, sampler=name, steps=steps, eos="forbid")
    before = [True] * 2 + [False] * 11
    for number, draft in enumerate(run.drafts):
        new = draft.committed & ~np.array(before)
        start = 2 + 4 * draft.block
        only_edits = name == "joint_threshold" and all(before[start : start + 4])
        assert new[start : start + 4].sum() == new.sum() >= (not only_edits), number
        before = draft.committed
    assert MASK not in run.result.ids
    assert run.result.stats.nfe <= steps


class TestBlockRefinement:
    @given(confidence=confidences, num_steps=st.integers(1, 30))
    def test_the_quota_is_cumulative(self, confidence: list[float], num_steps: int) -> None:
        rule, left, done = BlockRefinement(SamplerOptions(0.95)), confidence, 0
        for step in range(num_steps):
            if not left:
                break
            progress = BlockProgress(step, num_steps, len(confidence), done)
            chosen = set(rule.choose(stats(left), progress).tolist())
            sure = {i for i, value in enumerate(left) if np.float32(value) > 0.95}
            target = -(-len(confidence) * (step + 1) // num_steps)
            assert sure <= chosen
            assert len(chosen) == max(len(sure), target - done, 1)
            left = [value for i, value in enumerate(left) if i not in chosen]
            done += len(chosen)
        assert not left

    def test_what_came_early_is_not_asked_for_again(self) -> None:
        rule = BlockRefinement(SamplerOptions(0.9))
        first = rule.choose(stats([0.95, 0.96, 0.97, 0.1]), BlockProgress(0, 4, 4, 0))
        assert sorted(first.tolist()) == [0, 1, 2]
        assert rule.choose(stats([0.2, 0.1]), BlockProgress(1, 4, 4, 2)).tolist() == [0]


class TestHierarchical:
    def choose(self, confidence: Any, positions: Any = None, **options: Any) -> list[int]:
        rule = Hierarchical(SamplerOptions(**options))
        return rule.choose(stats(confidence, positions), BlockProgress(0, 9, 9, 0)).tolist()

    def test_the_best_of_every_run_above_the_low_bound(self) -> None:
        positions = [3, 4, 5, 8, 9, 12]
        assert self.choose([0.5, 0.6, 0.55, 0.3, 0.35, 0.45], positions) == [1, 5]

    def test_all_above_the_high_bound(self) -> None:
        assert self.choose([0.92, 0.95, 0.5, 0.93]) == [0, 1, 3]

    def test_the_best_of_all_in_any_case(self) -> None:
        assert self.choose([0.1, 0.3, 0.2], [0, 5, 9]) == [1]

    def test_the_low_bound_is_an_option(self) -> None:
        assert self.choose([0.2, 0.3], [0, 5], segment_threshold=0.15) == [0, 1]

    @given(confidence=confidences, data=st.data())
    def test_never_two_neighbours_unless_sure(
        self, confidence: list[float], data: st.DataObject
    ) -> None:
        places = st.sets(st.integers(0, 40), min_size=len(confidence), max_size=len(confidence))
        positions = sorted(data.draw(places))
        chosen = self.choose(confidence, positions)
        unsure = [i for i in chosen if np.float32(confidence[i]) <= 0.9]
        for one, other in pairwise(unsure):
            assert set(range(positions[one], positions[other] + 1)) - set(positions)


@pytest.mark.parametrize("name", ["low_confidence_dynamic", "block_refinement", "factor"])
def test_the_low_bound_has_no_effect_elsewhere(planned: Callable[..., Any], name: str) -> None:
    with pytest.raises(RequestError, match=r"segment_threshold has no effect.*hierarch"):
        planned([1], sampler=name, segment_threshold=0.3)

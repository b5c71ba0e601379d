"""Additions to single logits inside the head, and the credit that is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_of_checkpoint
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edge
from edge import _native
from edge.credit import ALPHA, BETA, GAMMA

GOLDEN = Path(__file__).parents[1] / "golden"
MASK = 245
VOCAB = 600  # three tiles of 256, the last one ragged
IDS = np.random.default_rng(8).integers(0, VOCAB, 9).astype(np.int32)

Step = Callable[..., _native.StepOutput]
Fields = Callable[..., dict[str, NDArray[Any]]]
PLAIN = {"plain_top1": "top1", "plain_top1_logit": "top1_logit", "plain_log_z": "log_z"}

few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=["f32", "q8_0"])
def engines(
    request: pytest.FixtureRequest,
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., _native.Denoiser],
) -> list[_native.Denoiser]:
    path = converted(checkpoint(vocab_size=VOCAB), request.param)
    isas = _native.supported_isas()
    return [denoiser(path, isa=isa, threads=n) for isa in isas for n in (1, 3)]


cells = st.dictionaries(
    st.tuples(st.integers(0, len(IDS) - 1), st.integers(0, VOCAB - 1)),
    st.floats(-8, 8, width=32),
    max_size=20,
)


def options(added: dict[tuple[int, int], float], **others: Any) -> _native.HeadOptions:
    ordered = sorted(added)
    starts = np.searchsorted([row for row, _ in ordered], range(len(IDS) + 1))
    return _native.HeadOptions(
        bias_starts=starts.astype(np.int32),
        bias_ids=np.array([token for _, token in ordered], np.int32),
        bias_values=np.array([added[cell] for cell in ordered], np.float32),
        **others,
    )


@few
@given(cells, st.sets(st.integers(0, VOCAB - 1), max_size=3).map(sorted))
def test_figures_of_the_row_that_was_added_to(
    engines: list[_native.Denoiser],
    step: Step,
    head_fields: Fields,
    added: dict[tuple[int, int], float],
    forbidden: list[int],
) -> None:
    rows = engines[0].logits(IDS)
    for (row, token), value in added.items():
        rows[row, token] += np.float32(value)
    log_z = np.log(np.exp(rows.astype(np.float64)).sum(axis=1))
    mean = (np.exp(rows - log_z[:, None]) * rows).sum(axis=1)
    rows[:, forbidden] = -np.inf
    without = head_fields(
        step(engines[0], IDS, head=_native.HeadOptions(forbidden=forbidden)), slice(None)
    )
    first: dict[str, NDArray[Any]] = {}
    for engine in engines:
        output = step(engine, IDS, head=options(added, forbidden=forbidden))
        fields = head_fields(output)
        for name, plain in PLAIN.items():
            np.testing.assert_array_equal(getattr(output, name), without[plain])
        first = first or fields
        for name, values in first.items():
            np.testing.assert_array_equal(values, fields[name])
    np.testing.assert_array_equal(first["top1"], rows.argmax(axis=1))
    np.testing.assert_array_equal(first["top1_logit"], rows.max(axis=1))
    np.testing.assert_array_equal(first["top2_logit"], np.sort(rows, axis=1)[:, -2])
    np.testing.assert_array_equal(first["sampled"], first["top1"])
    np.testing.assert_allclose(first["log_z"], log_z, rtol=1e-5)
    np.testing.assert_allclose(first["entropy"], log_z - mean, atol=1e-4)


def test_draws_are_from_what_was_added_to(engines: list[_native.Denoiser], step: Step) -> None:
    sure = {(row, 590): 1000.0 for row in range(len(IDS))}
    for extra in ({}, {"top_k": 5}, {"top_p": 0.5}):
        head = options(sure, temperature=1.0, seed=3, **extra)
        assert set(step(engines[0], IDS, head=head).sampled.tolist()) == {590}


@pytest.mark.parametrize(
    ("starts", "ids", "values", "problem"),
    [
        ([], [1], [1.0], "its rows' starts"),
        ([0] * 10, [1], [1.0], "one per head row"),
        ([0, 1], [1], [1.0], "one per head row"),
        ([0, 1, 0, 1, 1, 1, 1, 1, 1, 1], [1], [1.0], "ascending"),
        ([1] * 10, [1], [1.0], "ascending from 0"),
        ([0] * 9 + [1], [1], [], "as many values"),
        ([0] * 9 + [1], [VOCAB], [1.0], "outside the vocabulary"),
        ([0] * 9 + [1], [-1], [1.0], "outside the vocabulary"),
        ([0] * 9 + [1], [1], [float("nan")], "must be finite"),
        ([0] * 9 + [1], [1], [float("inf")], "must be finite"),
    ],
)
def test_impossible_additions(
    engines: list[_native.Denoiser], step: Step, starts: Any, ids: Any, values: Any, problem: str
) -> None:
    head = _native.HeadOptions(
        bias_starts=np.array(starts, np.int32),
        bias_ids=np.array(ids, np.int32),
        bias_values=np.array(values, np.float32),
    )
    with pytest.raises(ValueError, match=problem):
        step(engines[0], IDS, head=head)


def dense_run(model: edge.Model, prompt: Any, num_new: int, threshold: float) -> list[list[int]]:
    """The dynamic rule with the paper's formula on whole rows of logits."""
    ids = np.concatenate([prompt, np.full(num_new, MASK)]).astype(np.int32)
    credits, states = np.zeros((len(ids), model.config.denoiser.vocab_size)), []
    while (holes := np.flatnonzero(ids == MASK)).size:
        logits = model.logits(ids)[holes].astype(np.float64)
        log_z = np.log(np.exp(logits).sum(axis=1))
        may = logits.copy()
        may[:, MASK] = -np.inf
        may[:, model.config.num_tokens :] = -np.inf
        best = may.argmax(axis=1)
        credits[holes] *= BETA
        credits[holes, best] += np.exp(may.max(axis=1) - log_z) ** GAMMA
        extra = ALPHA * np.log1p(credits[holes])
        raised = np.exp(logits + extra)
        chosen = (may + extra).argmax(axis=1)
        sure = raised[np.arange(len(holes)), chosen] / raised.sum(axis=1)
        commit = (
            sure > threshold if (sure > threshold).any() else np.arange(len(sure)) == sure.argmax()
        )
        ids[holes[commit]] = chosen[commit]
        states.append(ids.tolist())
    return states


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_a_run_equals_the_formula_on_whole_rows(tmp_path: Path, threshold: float) -> None:
    out = tmp_path / "model.gguf"
    gguf_of_checkpoint.write_gguf(GOLDEN / "a2d_qwen3_mdlm", out, "edge-qwen3", "f32", MASK)
    prompt, states = np.arange(9), []
    with edge.load(out) as model:
        result = model.generate_ids(
            prompt,
            max_tokens=20,
            block_length=20,
            sampler="low_confidence_dynamic",
            threshold=threshold,
            credit=True,
            eos="forbid",
            on_step=lambda draft: states.append(draft.ids.tolist()),
        )
        wanted = dense_run(model, prompt, 20, threshold)
        plain = model.generate_ids(
            prompt, max_tokens=20, sampler="low_confidence_dynamic", threshold=threshold
        )
    assert states == wanted
    assert result.stats.nfe == len(wanted)
    assert plain.stats.nfe >= result.stats.nfe

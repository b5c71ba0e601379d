"""Head rows: the figures of a row of logits that never exists as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edge import _native

VOCAB = 600  # three tiles of 256, the last one ragged
IDS = np.random.default_rng(8).integers(0, VOCAB, 64).astype(np.int32)
TWINS = (3, 100, 300)  # rows of the head made equal: two in one tile, one in another

Step = Callable[..., _native.StepOutput]
Fields = Callable[..., dict[str, NDArray[Any]]]
Denoisers = Callable[..., _native.Denoiser]


@pytest.fixture(scope="module", params=["f32", "q8_0"])
def path(
    request: pytest.FixtureRequest,
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = Path(
        shutil.copytree(checkpoint(vocab_size=VOCAB), tmp_path_factory.mktemp("x") / "twins")
    )
    tensors = load_file(folder / "model.safetensors")
    head = tensors["model.transformer.ff_out.weight"]
    head[list(TWINS)] = head[TWINS[0]]
    save_file(tensors, folder / "model.safetensors")
    return converted(folder, request.param)


@pytest.fixture(scope="module")
def model(path: Path, denoiser: Denoisers) -> _native.Denoiser:
    return denoiser(path)


@pytest.fixture(scope="module")
def logits(model: _native.Denoiser) -> NDArray[np.float32]:
    return model.logits(IDS)


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_a_row_may_be_asked_several_times(
    path: Path, denoiser: Denoisers, step: Step, logits: NDArray[np.float32], isa: str
) -> None:
    """With another token lifted each time, which is how tokens that are not the best are scored."""
    asked = np.array([5, 5, 5, 9, 9, 63], np.int32)
    tokens = np.array([0, 300, 599, 7, 256, 3], np.int32)
    lift = np.float32(128)
    bias = {
        "bias_starts": np.arange(len(asked) + 1, dtype=np.int32),
        "bias_ids": tokens,
        "bias_values": np.full(len(asked), lift),
    }
    engine = denoiser(path, isa=isa, threads=2)
    output = step(engine, IDS, None, asked, head=_native.HeadOptions(**bias))
    assert output.top1.tolist() == tokens.tolist()
    assert output.top1_logit == pytest.approx(logits[asked, tokens] + lift, abs=2e-5)
    once = step(engine, IDS, None, [5, 9, 63])
    for name in ("plain_top1", "plain_top1_logit", "plain_log_z"):
        repeated = getattr(once, name)[[0, 0, 0, 1, 1, 2]]
        assert np.array_equal(getattr(output, name), repeated)


def test_figures_of_the_row(
    model: _native.Denoiser, step: Step, logits: NDArray[np.float32]
) -> None:
    output = step(model, IDS)
    rows = logits.astype(np.float64)
    highest = rows.max(axis=1)
    log_z = highest + np.log(np.exp(rows - highest[:, None]).sum(axis=1))
    probabilities = np.exp(rows - log_z[:, None])
    entropy = log_z - (probabilities * rows).sum(axis=1)
    assert np.array_equal(output.top1, logits.argmax(axis=1))
    assert np.array_equal(output.top1_logit, logits.max(axis=1))
    assert np.array_equal(output.top2_logit, np.sort(logits, axis=1)[:, -2])
    assert np.array_equal(output.sampled, output.top1)
    assert np.array_equal(output.sampled_logit, output.top1_logit)
    assert np.abs(output.log_z / log_z - 1).max() < 1e-5
    assert np.abs(output.entropy - entropy).max() < 1e-5


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.sets(st.integers(0, len(IDS) - 1)).map(sorted))
def test_only_the_rows_asked_for(
    model: _native.Denoiser, step: Step, head_fields: Fields, rows: list[int]
) -> None:
    every = head_fields(step(model, IDS), rows)
    some = head_fields(step(model, IDS, head_rows=rows))
    assert all(np.array_equal(some[name], every[name]) for name in every)


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_does_not_depend_on_how_many_there_are(
    path: Path,
    model: _native.Denoiser,
    denoiser: Denoisers,
    step: Step,
    head_fields: Fields,
    isa: str,
    threads: int,
) -> None:
    causal = _native.AttentionMask("causal")
    head = _native.HeadOptions(temperature=0.8, seed=4)
    wanted = head_fields(step(model, IDS, mask=causal, head=head))
    other = denoiser(path, isa=isa, threads=threads)
    for count in range(1, len(IDS) + 1):
        fewer = head_fields(step(other, IDS[:count], mask=causal, head=head))
        assert all(np.array_equal(fewer[name], wanted[name][:count]) for name in wanted), count


def test_forbidden_ids_are_never_chosen_but_stay_in_the_distribution(
    model: _native.Denoiser, step: Step, logits: NDArray[np.float32]
) -> None:
    free = step(model, IDS)
    forbidden = sorted(set(free.top1.tolist()))
    bound = step(model, IDS, head=_native.HeadOptions(forbidden=forbidden))
    allowed = logits.copy()
    allowed[:, forbidden] = -np.inf
    assert np.array_equal(bound.top1, allowed.argmax(axis=1))
    assert np.array_equal(bound.top1_logit, allowed.max(axis=1))
    assert np.array_equal(bound.top2_logit, np.sort(allowed, axis=1)[:, -2])
    assert np.array_equal(bound.log_z, free.log_z)
    assert np.array_equal(bound.entropy, free.entropy)


@pytest.mark.parametrize("num_choices", [1, 2, 255, 256, 257, VOCAB - 1, VOCAB])
def test_padding_rows_are_never_chosen(
    model: _native.Denoiser, step: Step, logits: NDArray[np.float32], num_choices: int
) -> None:
    output = step(model, IDS, head=_native.HeadOptions(num_choices=num_choices))
    choices = logits[:, :num_choices]
    assert np.array_equal(output.top1, choices.argmax(axis=1))
    second = np.sort(choices, axis=1)[:, -2] if num_choices > 1 else np.full(len(IDS), -np.inf)
    assert np.array_equal(output.top2_logit, second)


@pytest.mark.parametrize("twins", [TWINS, TWINS[1:], TWINS[:2]])
def test_of_equal_logits_the_first_id_wins(
    model: _native.Denoiser, step: Step, twins: tuple[int, ...]
) -> None:
    others = sorted(set(range(VOCAB)) - set(twins))
    output = step(model, IDS, head=_native.HeadOptions(forbidden=others))
    assert (output.top1 == twins[0]).all()
    assert np.array_equal(output.top2_logit, output.top1_logit)


def test_no_head_rows(model: _native.Denoiser, step: Step, head_fields: Fields) -> None:
    assert all(len(column) == 0 for column in head_fields(step(model, IDS, head_rows=[])).values())

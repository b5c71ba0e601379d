"""What is speculated is what the model says anyway: the text of plain decoding, token for token."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated_model import MASK, Gated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge
from convert import convert
from edge import _native
from edge.drafting import MOST_BRANCHES, Drafting, Reach

TYPES = ("f32", "f16", "bf16", "int8", "int4", "q8_0", "q4_0")
KVS = ("f32", "bf16", "int8")
SEEDS = range(3)
often = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
prompts = st.lists(st.integers(0, 23), min_size=1, max_size=50)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """``files("int8", seed)``: a random model; seed 1 and 2 draft rather well."""
    made: dict[tuple[str, int], Path] = {}

    def make(type: str, seed: int) -> Path:
        if (type, seed) not in made:
            folder = tmp_path_factory.mktemp("gated")
            gated = Gated.random(seed, rank=32, vocab=24, strength=0.05, habit=0.6 * seed)
            base, adapter = gated.write(folder)
            made[type, seed] = folder / "model.gguf"
            convert(base, made[type, seed], type, method="nearest", gated_adapter=adapter)
        return made[type, seed]

    return make


@pytest.fixture(scope="module")
def models(files: Callable[[str, int], Path]) -> Iterator[Callable[..., edge.Model]]:
    opened: dict[Any, edge.Model] = {}

    def load(type: str, seed: int, threads: int = 1, kv: str = "auto") -> edge.Model:
        key = (type, seed, threads, kv)
        if key not in opened:
            opened[key] = edge.load(files(type, seed), threads=threads, kv=kv)
        return opened[key]

    yield load
    for model in opened.values():
        model.close()


@pytest.fixture
def any_reach(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``any_reach(seed)``: from now on drafts reach as far as chance wants."""

    def draw(seed: int) -> None:
        random = np.random.default_rng(seed)

        def reach(*_: Any, **__: Any) -> Reach:
            return Reach(int(random.integers(0, 8)), int(random.integers(0, MOST_BRANCHES + 1)))

        def to_compare(_: Drafting, sure: list[float], *__: Any) -> tuple[int, list[int]]:
            count = int(random.integers(0, len(sure) + 1))
            some = random.permutation(count + 1)[: random.integers(0, MOST_BRANCHES + 1)]
            return count, sorted(some.tolist())

        monkeypatch.setattr(Drafting, "reach", reach)
        monkeypatch.setattr(Drafting, "to_compare", to_compare)

    return draw


def greedy(model: edge.Model, prompt: list[int], count: int) -> list[int]:
    """One whole forward per token, nothing cached."""
    ids = list(prompt)
    for _ in range(count):
        last = model.logits(ids, len(ids))[-1].copy()
        last[MASK] = -np.inf
        ids.append(int(last.argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("type", TYPES)
def test_plain_decoding_is_what_whole_forwards_say(models: Any, type: str) -> None:
    model = models(type, 0)
    for seed in SEEDS:
        prompt = np.random.default_rng(seed).integers(0, 24, 1 + 7 * seed).tolist()
        given = model.generate_ids(prompt, sampler="autoregressive", max_tokens=20, eos="forbid")
        wanted = greedy(model, prompt, 20)
        wanted = wanted[: wanted.index(23)] if 23 in wanted else wanted
        assert given.ids[: len(wanted)] == wanted
        assert given.stats.nfe == 20
        assert given.stats.drafted_tokens == given.stats.unverified_tokens == 0


@often
@given(
    type=st.sampled_from(TYPES),
    seed=st.sampled_from(SEEDS),
    threads=st.sampled_from([1, 2]),
    kv=st.sampled_from(["auto", *KVS]),
    prompt=prompts,
    draws=st.integers(0, 10**6),
    tokens=st.integers(1, 60),
    more=st.sampled_from(
        [{}, {"temperature": 1.0, "seed": 5}, {"temperature": 0.7, "top_k": 3}, {"eos": "forbid"}]
    ),
)
def test_the_text_is_that_of_plain_decoding(
    models: Any,
    any_reach: Callable[[int], None],
    type: str,
    seed: int,
    threads: int,
    kv: str,
    prompt: list[int],
    draws: int,
    tokens: int,
    more: dict[str, Any],
) -> None:
    model, other = models(type, seed, threads, kv), models(type, seed, 3 - threads, kv)
    plain = other.generate_ids(prompt, sampler="autoregressive", max_tokens=tokens, **more)
    any_reach(draws)
    drafted = model.generate_ids(prompt, max_tokens=tokens, **more)
    assert drafted.ids == plain.ids
    assert drafted.status == plain.status
    assert drafted.stats.sampler == "speculative"
    assert drafted.stats.nfe <= plain.stats.nfe
    assert drafted.stats.unverified_tokens == 0
    assert drafted.stats.accepted_tokens <= drafted.stats.drafted_tokens
    assert drafted.stats.mean_confidence == plain.stats.mean_confidence


@pytest.mark.parametrize("type", TYPES)
def test_many_prompts_as_they_are_decoded_by_default(models: Any, type: str) -> None:
    accepted = 0
    for seed, threads in zip(SEEDS, (1, 2, 1), strict=True):
        model = models(type, seed, threads)
        for length in (1, 16, 33):
            prompt = np.random.default_rng(length).integers(0, 24, length)
            for more in ({}, {"block_length": 8}, {"block_length": 12}):
                plain = {"sampler": "autoregressive", "max_tokens": 40}
                wanted = model.generate_ids(prompt, **plain).ids
                found = model.generate_ids(prompt, max_tokens=40, **more)
                assert found.ids == wanted
                accepted += found.stats.accepted_tokens
    assert accepted > 20


def test_drafts_that_agree_save_forwards(models: Any) -> None:
    stats = models("f32", 2).generate_ids([3], max_tokens=60, eos="forbid", block_length=8).stats
    assert stats.nfe < 30
    assert stats.accepted_tokens == 60 - stats.nfe
    assert stats.tokens_per_forward == 60 / stats.nfe


def test_every_instruction_set(files: Any, isa: str) -> None:
    texts = []
    for sampler in ("speculative", "autoregressive"):
        with edge.load(files("q8_0", 1), threads=1) as model:
            assert model.isa == isa
            options = {"sampler": sampler, "max_tokens": 40, "eos": "forbid"}
            texts.append(model.generate_ids([1, 2, 3, MASK, 4], **options).ids)
    assert texts[0] == texts[1]


def test_up_to_the_end_of_the_context(models: Any) -> None:
    model = models("q8_0", 2)
    prompt = np.arange(100) % 20
    wanted = model.generate_ids(prompt, sampler="autoregressive", eos="forbid")
    found = model.generate_ids(prompt, eos="forbid", block_length=8)
    assert found.ids == wanted.ids
    assert len(prompt) + len(found.ids) == 128
    long = np.arange(127) % 20
    assert len(model.generate_ids(long, max_tokens=1, eos="forbid").ids) == 1


def test_long_prompts_are_read_in_chunks(tmp_path: Path) -> None:
    base, adapter = Gated.random(1, context=1024, habit=0.6, vocab=24).write(tmp_path)
    convert(base, tmp_path / "model.gguf", "q8_0", gated_adapter=adapter)
    prompt = np.random.default_rng(0).integers(0, 24, 600)
    with edge.load(tmp_path / "model.gguf") as model:
        wanted = model.generate_ids(prompt, sampler="autoregressive", max_tokens=30, eos="forbid")
        found = model.generate_ids(prompt, max_tokens=30, eos="forbid", block_length=8)
    assert found.ids == wanted.ids
    assert wanted.stats.nfe == 32


@pytest.mark.parametrize("shift", ["true", "false"])
def test_a_causal_model_without_an_adapter(
    tmp_path: Path, any_reach: Callable[[int], None], shift: str
) -> None:
    base, _ = Gated.random(2, vocab=24, habit=1.0).write(tmp_path)
    keys = {"diffusion.attention": "causal_context", "diffusion.shift_logits": shift}
    convert(base, tmp_path / "model.gguf", "q8_0", mask_token_id=MASK, overrides=keys)
    with edge.load(tmp_path / "model.gguf") as model:
        for seed in range(10):
            prompt = np.random.default_rng(seed).integers(0, 24, 1 + seed)
            options = {"max_tokens": 40, "eos": "forbid"}
            wanted = model.generate_ids(prompt, sampler="autoregressive", **options)
            any_reach(seed)
            found = model.generate_ids(prompt, sampler="speculative", **options)
            assert found.ids == wanted.ids


def test_several_threads_share_a_model(models: Any) -> None:
    model, texts = models("q8_0", 1), {}
    wanted = model.generate_ids([3], sampler="autoregressive", max_tokens=50, eos="forbid").ids

    def ask(number: int) -> None:
        texts[number] = model.generate_ids([3], max_tokens=50, eos="forbid").ids

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == dict.fromkeys(range(4), wanted)


def test_events(models: Any) -> None:
    events = list(models("f32", 2).stream_ids([3, 4], max_tokens=30, block_length=8, eos="forbid"))
    drafts = [event for event in events if isinstance(event, edge.Draft)]
    commits = [event for event in events if isinstance(event, edge.Commit)]
    result = events[-1].result
    assert [id for commit in commits for id in commit.ids] == result.ids
    assert [draft.step for draft in drafts] == list(range(1, result.stats.steps + 1))
    assert result.stats.steps == result.stats.nfe == sum(result.stats.steps_per_block)
    for draft in drafts:  # what is open is at the end, and begins with what was drafted
        open_ids = np.flatnonzero(~draft.committed)
        assert np.array_equal(open_ids, np.arange(32 - len(open_ids), 32))
        assert (draft.ids[open_ids] == MASK).all()
    assert any((draft.draft_ids != draft.ids).any() for draft in drafts)


def test_cancelling(models: Any) -> None:
    model, flag = models("f32", 1), edge.CancelFlag()
    options = {"max_tokens": 60, "eos": "forbid"}
    wanted = model.generate_ids([3], **options).ids

    def stop(draft: edge.Draft) -> None:
        if draft.step == 5:
            flag.set()

    cut = model.generate_ids([3], cancel=flag, on_step=stop, **options)
    assert cut.status == "cancelled"
    assert 5 <= len(cut.ids) < 60
    assert cut.ids == wanted[: len(cut.ids)]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 3}, "steps has no effect"),
        ({"steps_per_block": 3}, "steps_per_block has no effect"),
        ({"early_stop": "stable"}, "early_stop has no effect"),
        ({"remask": "conf"}, "remask has no effect"),
        ({"credit": True}, "credit has no effect"),
        ({"fused": False}, "fused has no effect"),
        ({"reference": True}, "reference has no effect"),
        ({"eos": "late"}, "eos late has no effect"),
        ({"on_tight": "coarse"}, "on_tight coarse has no effect"),
        ({"threshold": 0.5}, "threshold has no effect"),
        ({"sampler": "autoregressive", "block_length": 4}, "block_length has no effect"),
    ],
)
def test_options_without_effect(models: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(edge.RequestError, match=match):
        models("f32", 0).generate_ids([1], **options)


def test_what_cannot_be_decoded_in_order(models: Any) -> None:
    with pytest.raises(edge.RequestError, match="prompt is empty"):
        models("f32", 0).generate_ids([])
    with edge.load() as model, pytest.raises(edge.RequestError, match="attention is full"):
        model.generate_ids([0] * 81, sampler="speculative")


def test_other_samplers_refine_blocks_of_such_a_model(models: Any) -> None:
    found = models("f32", 0).generate_ids(
        [1, 2, 3], sampler="low_confidence_dynamic", threshold=0.5, max_tokens=20, eos="forbid"
    )
    assert len(found.ids) == 20
    assert MASK not in found.ids
    assert _native.supported_isas()

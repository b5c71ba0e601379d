"""Conversations: the same answers as without a memory, and nothing stored twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edge
from convert import convert
from edge.backends.base import Mask, StepRequest
from edge.config import ModelConfig
from edge.errors import (
    ContextLengthError,
    ModelClosedError,
    RequestError,
    UnsupportedModelError,
)
from edge.prefix import KeptPrefix
from edge.result import Done

CHANGES: dict[str, dict[str, Any]] = {
    "full": {"diffusion.attention": "full"},
    "block": {},
    "block of 8": {"diffusion.block_length": "8"},
    "prompt_end": {"diffusion.block_align": "prompt_end"},
    "shifted": {"diffusion.shift_logits": "true"},
    "causal_context": {"diffusion.attention": "causal_context"},
    "causal and shifted": {
        "diffusion.attention": "causal_context",
        "diffusion.shift_logits": "true",
    },
}


@pytest.fixture(scope="module", params=list(CHANGES))
def model(
    request: pytest.FixtureRequest,
    chat_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[edge.Model]:
    """The same weights attending in every way."""
    path = tmp_path_factory.mktemp("attention") / "model.gguf"
    convert(chat_checkpoint, path, "f32", overrides=CHANGES[request.param])
    with edge.load(path, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def chat(chat_model: Path) -> Iterator[edge.Model]:
    with edge.load(chat_model, threads=1) as loaded:
        yield loaded


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[edge.Model], list[StepRequest]]:
    """``computed(model)``: the list of its forwards from now on."""

    def watch(model: edge.Model) -> list[StepRequest]:
        backend, requests = model._engine.backend, list[StepRequest]()
        real = backend.forward

        def forward(request: StepRequest) -> Any:
            requests.append(request)
            return real(request)

        monkeypatch.setattr(backend, "forward", forward)
        return requests

    return watch


def same_figures(one: edge.Result, other: edge.Result) -> bool:
    return (one.ids, one.status, one.stats.mean_confidence, one.stats.min_confidence) == (
        other.ids,
        other.status,
        other.stats.mean_confidence,
        other.stats.min_confidence,
    )


class TestWhatIsKept:
    def test_answers_are_those_without_a_memory(self, model: edge.Model) -> None:
        conversation = model.conversation("Be brief.", max_tokens=10, temperature=0.5, seed=3)
        for text in ("hello", "what is it?", "x", "and a much longer question than before?"):
            messages = [*conversation.messages, {"role": "user", "content": text}]
            result = conversation.say(text)
            alone = model.chat(messages, max_tokens=10, temperature=0.5, seed=3)
            assert same_figures(result, alone)
            assert alone.stats.reused_tokens == 0
            assert alone.stats.prompt_tokens == result.stats.prompt_tokens
            answer = {"role": "assistant", "content": result.text}
            assert conversation.messages == [*messages, answer]

    def test_nothing_that_was_stored_is_computed_again(
        self, model: edge.Model, computed: Callable[[edge.Model], list[StepRequest]]
    ) -> None:
        diffusion = model.config.diffusion
        conversation = model.conversation(max_tokens=8)
        first = conversation.say("hello there, how are you today?")
        requests = computed(model)
        second = conversation.say("fine")
        reused = second.stats.reused_tokens
        if not diffusion.caches or (
            diffusion.block_align == "prompt_end"
            and (
                diffusion.attention == "block"
                and (first.stats.prompt_tokens - second.stats.prompt_tokens)
                % diffusion.block_length
            )
        ):
            assert reused == 0
            return
        lost = diffusion.block_length if diffusion.attention == "block" else 1
        assert first.stats.prompt_tokens - lost <= reused <= second.stats.prompt_tokens
        rows = np.concatenate([request.positions for request in requests])
        assert rows.min() == reused
        stored = [
            position
            for request in requests
            if request.store
            for position in request.positions[: request.num_stored or None].tolist()
        ]
        assert stored == sorted(set(stored))
        assert stored[0] == reused
        assert len(stored) <= second.stats.prompt_tokens - reused + 8

    def test_taking_turns_back_keeps_what_is_left(self, model: edge.Model) -> None:
        conversation = model.conversation(max_tokens=6)
        conversation.say("one")
        before = conversation.messages
        conversation.say("two")
        assert conversation.undo()
        assert conversation.messages == before
        again = conversation.say("two, but different")
        alone = model.chat(
            [*before, {"role": "user", "content": "two, but different"}], max_tokens=6
        )
        assert same_figures(again, alone)
        conversation.reset()
        assert conversation.messages == []
        assert not conversation.undo()
        hello = conversation.say("one")
        assert same_figures(hello, model.chat([{"role": "user", "content": "one"}], max_tokens=6))

    def test_two_threads_disturb_nobody(self, chat: edge.Model) -> None:
        conversation = chat.conversation(max_tokens=8)
        conversation.say("begin")
        results: list[edge.Result] = []
        threads = [
            threading.Thread(target=lambda: results.append(conversation.say("at once")))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(result.complete for result in results)
        assert len(conversation.messages) == 2 + 2 * 4

    def test_a_stopped_turn_leaves_what_it_stored(self, chat: edge.Model) -> None:
        conversation = chat.conversation(max_tokens=16)
        conversation.say("hello")
        messages = [*conversation.messages, {"role": "user", "content": "more of it"}]
        events = conversation.stream("more of it")
        next(events)
        events.close()  # type: ignore[attr-defined]
        assert conversation.messages == messages[:-1]
        result = conversation.say("more of it")
        assert result.stats.reused_tokens > 0
        assert same_figures(result, chat.chat(messages, max_tokens=16))

    def test_a_budget_counts_what_is_left_to_store(self, chat: edge.Model) -> None:
        conversation = chat.conversation(max_tokens=8, budget_ms=1e6)
        conversation.say("hello " * 20)
        second = conversation.say("x")
        assert second.status == "complete"
        assert second.stats.reused_tokens > 100
        assert second.stats.budget_ms == 1e6
        tight = conversation.say("y", budget_ms=1e-3)
        assert tight.status == "deadline_infeasible"


class TestConversation:
    def test_an_answer_that_was_stopped_stays_as_far_as_it_came(self, chat: edge.Model) -> None:
        conversation, cancel = chat.conversation(max_tokens=64), edge.CancelFlag()
        for event in conversation.stream("hello", cancel=cancel):
            if isinstance(event, edge.Commit) and event.text:
                cancel.set()
            if isinstance(event, Done):
                result = event.result
        assert result.status == "cancelled"
        assert result.text
        assert conversation.messages[-1] == {"role": "assistant", "content": result.text}

    def test_a_turn_stopped_before_its_first_token_is_gone(self, chat: edge.Model) -> None:
        conversation, cancel = chat.conversation(), edge.CancelFlag()
        cancel.set()
        assert conversation.say("hello", cancel=cancel).status == "cancelled"
        assert conversation.messages == []

    def test_messages_are_copies(self, chat: edge.Model) -> None:
        conversation = chat.conversation("S", max_tokens=4)
        conversation.messages[0]["content"] = "changed"
        assert conversation.messages == [{"role": "system", "content": "S"}]

    def test_options_of_a_turn_come_before_those_of_all(self, chat: edge.Model) -> None:
        conversation = chat.conversation(max_tokens=4, eos="forbid")
        assert len(conversation.say("a").ids) == 4
        assert len(conversation.say("b", max_tokens=9).ids) == 9

    def test_a_full_context_says_what_to_do(self, chat: edge.Model) -> None:
        conversation = chat.conversation(max_tokens=32)
        conversation.say("x" * 300)
        before = conversation.messages
        with pytest.raises(ContextLengthError, match=r"of 512 - undo or reset.*drop-oldest"):
            conversation.say("y" * 200)
        assert conversation.messages == before
        assert conversation.say("y").complete

    def test_the_oldest_turns_may_go(self, chat: edge.Model) -> None:
        conversation = chat.conversation("System.", on_full="drop_oldest", max_tokens=16)
        for letter in "abcdef":
            conversation.say(letter * 100)
        said = [m["content"] for m in conversation.messages if m["role"] == "user"]
        assert conversation.messages[0] == {"role": "system", "content": "System."}
        assert said == [letter * 100 for letter in "abcdef"][-len(said) :]
        assert 0 < len(said) < 6
        assert conversation.num_dropped == 6 - len(said)
        with pytest.raises(ContextLengthError, match="shorten the prompt"):
            conversation.say("z" * 600)
        assert conversation.num_dropped == 6 - len(said)

    def test_an_answer_has_room_whatever_was_said(self, chat: edge.Model) -> None:
        conversation = chat.conversation(eos="forbid")
        assert len(conversation.say("a").ids) == 128
        with pytest.raises(ContextLengthError):
            conversation.say("b" * 300)

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"on_full": "panic"}, "on_full is 'panic'.*drop_oldest"),
            ({"steps": 0}, "steps is 0"),
            ({"colour": 1}, "unknown option 'colour'"),
        ],
    )
    def test_impossible_options(
        self, chat: edge.Model, options: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(RequestError, match=problem):
            chat.conversation(**options)

    @pytest.mark.parametrize("text", [3, None, "a\ud800"])
    def test_what_is_no_message(self, chat: edge.Model, text: Any) -> None:
        conversation = chat.conversation()
        with pytest.raises(RequestError):
            conversation.say(text)
        assert conversation.messages == []

    def test_models_that_cannot_chat(
        self, golden: Callable[[str], Path], converted: Callable[..., Path]
    ) -> None:
        for path, problem in ((None, r"no chat template.*edge run"), ("sdar", "no tokenizer")):
            model = edge.load(path and converted(golden(path)))
            with model, pytest.raises(UnsupportedModelError, match=problem):
                model.conversation()

    def test_a_closed_model(self, chat_model: Path) -> None:
        with edge.load(chat_model) as model:
            conversation = model.conversation()
        with pytest.raises(ModelClosedError):
            conversation.say("hello")


class FakeCache:
    """Says what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def truncate(self, length: int) -> None:
        self.calls.append(("truncate", length))

    def reserve(self, capacity: int) -> None:
        self.calls.append(("reserve", capacity))


def array(*ids: int) -> NDArray[np.int32]:
    return np.array(ids, np.int32)


class TestKeptPrefix:
    @settings(
        max_examples=300,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        kept=st.lists(st.integers(0, 1), max_size=24),
        ids=st.lists(st.integers(0, 1), max_size=24),
        block_length=st.integers(1, 6),
        origins=st.tuples(st.integers(0, 12), st.integers(0, 12)),
        kind=st.sampled_from(["block", "causal_context"]),
        carries=st.booleans(),
    )
    def test_only_whole_blocks_that_are_alike(
        self,
        model_config: Callable[..., ModelConfig],
        kept: list[int],
        ids: list[int],
        block_length: int,
        origins: tuple[int, int],
        kind: str,
        carries: bool,
    ) -> None:
        length = block_length if kind == "block" else 0
        masks = [Mask(kind, length, origin) for origin in origins]
        diffusion = model_config(attention=kind, shift_logits=carries).diffusion
        prefix = KeptPrefix()
        prefix.give_back(FakeCache(), array(*kept), masks[0])
        stop = min(len(ids), origins[1])
        number = prefix.num_reusable(array(*ids), stop, masks[1], diffusion)
        assert 0 <= number <= stop
        assert kept[:number] == ids[:number]
        assert not number or number < stop or not diffusion.carries
        if kind == "block" and number:
            assert (origins[0] - origins[1]) % block_length == 0
            assert (number - origins[1]) % block_length == 0

    def test_one_request_has_it_at_a_time(self) -> None:
        prefix, cache = KeptPrefix(), FakeCache()
        prefix.give_back(cache, array(1, 2, 3), Mask())
        backend: Any = SimpleNamespace(new_cache=lambda capacity: ("new", capacity))
        assert prefix.take(backend, 10, 2) is cache
        assert cache.calls == [("truncate", 2), ("reserve", 10)]
        assert prefix.take(backend, 10, 0) == ("new", 10)

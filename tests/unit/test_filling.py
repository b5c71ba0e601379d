"""Filling: what the canvas is, when a hole ends, that given text comes back as it was."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge
from edge import Hole
from edge.config import ModelConfig
from edge.engine import Engine
from edge.errors import ContextLengthError, RequestError
from edge.filling import Form, run_filling
from edge.generator import Generation
from edge.holes import parse_template
from edge.plan import plan_canvas
from edge.request import GenerateConfig
from edge.result import Commit, Done, Draft
from edge.tokenizer import Tokenizer

MASK, EOS, PAD = 256, 257, 250
FULL = ("llada", "dream", "a2d_qwen3_mdlm")

some = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@dataclass
class Filled:
    """One scripted filling, as it went."""

    events: list[Any]
    requests: list[Any]

    @property
    def result(self) -> edge.Result:
        last = self.events[-1]
        assert isinstance(last, Done)
        return last.result

    @property
    def texts(self) -> list[str]:
        return [hole.text for hole in self.result.holes]

    @property
    def commits(self) -> list[Commit]:
        return [event for event in self.events if isinstance(event, Commit)]


@pytest.fixture
def scripted_fill(
    model_config: Callable[..., ModelConfig],
    byte_tokenizer: Tokenizer,
    scripted_backend: Callable[..., Any],
) -> Callable[..., Filled]:
    """``scripted_fill(pieces, tokens, confidence=None, **options)``: ``tokens`` [canvas]."""

    def run(
        pieces: list[Any],
        tokens: Any,
        confidence: Any = None,
        *,
        config: dict[str, Any] | None = None,
        on_forward: Callable[[int], None] | None = None,
        **options: Any,
    ) -> Filled:
        made = model_config(**(config or {}))
        form = Form(pieces, byte_tokenizer, made, (EOS, PAD))
        canvas, _ = form.canvas()
        sure = np.linspace(0.9, 0.5, len(tokens)) if confidence is None else confidence
        backend = scripted_backend(
            np.array(tokens, np.int32), np.array(sure, np.float32), on_forward
        )
        plan = plan_canvas(canvas, GenerateConfig.of(options), made)
        generation = Generation(Engine(backend, made), None, plan, time.monotonic_ns())
        return Filled(list(run_filling(generation, form, canvas)), backend.requests)

    return run


Scripted = Callable[..., Filled]


def ids(text: str) -> list[int]:
    return list(text.encode())


class TestHoles:
    def test_several_are_filled_at_once(self, scripted_fill: Scripted) -> None:
        run = scripted_fill([Hole(2), "-", Hole(1), Hole(1), "+"], ids("ab?cd?"), steps=1)
        assert run.result.text == "ab-cd+"
        assert run.texts == ["ab", "c", "d"]
        assert [(hole.start, hole.stop) for hole in run.result.holes] == [(0, 2), (3, 4), (4, 5)]
        assert run.result.ids == ids("ab-cd+")
        assert (len(run.requests), run.result.status) == (1, "complete")

    def test_the_surest_position_of_all_holes_comes_first(self, scripted_fill: Scripted) -> None:
        run = scripted_fill([Hole(1), "-", Hole(2)], ids("a?bc"), [0.2, 0, 0.4, 0.9])
        drafts = [event for event in run.events if isinstance(event, Draft)]
        assert [np.flatnonzero(~d.committed).tolist() for d in drafts] == [[0, 2], [0], []]
        assert all(d.given is not None and d.given.tolist() == [0, 1, 0, 0] for d in drafts)

    def test_the_denoiser_sees_the_text_and_masks(self, scripted_fill: Scripted) -> None:
        run = scripted_fill(["a", Hole(2), "b"], ids("?xy?"))
        assert run.requests[0].ids.tolist() == [*ids("a"), MASK, MASK, *ids("b")]
        assert run.requests[0].head_rows.tolist() == [1, 2]

    @pytest.mark.parametrize("end", [EOS, PAD])
    def test_an_end_token_ends_its_hole_and_no_other(
        self, scripted_fill: Scripted, end: int
    ) -> None:
        tokens = [*ids("a"), end, *ids("bc"), *ids("?"), *ids("de")]
        run = scripted_fill([Hole(4), "-", Hole(2)], tokens, steps=1)
        assert run.texts == ["a", "de"]
        assert run.result.text == "a-de"
        assert run.result.ids == ids("a-de")

    def test_nothing_is_decided_behind_an_end_token(self, scripted_fill: Scripted) -> None:
        tokens = [*ids("a"), EOS, *ids("bcdefg")]
        run = scripted_fill([Hole(8)], tokens)
        assert run.texts == ["a"]
        assert run.result.stats.nfe == run.result.stats.steps == 2
        assert run.result.stats.tokens == 2

    def test_an_end_token_may_come_late_or_never(self, scripted_fill: Scripted) -> None:
        tokens = [*ids("a"), EOS, *ids("b")]
        late = scripted_fill([Hole(3)], tokens, eos="late")
        assert [len(event.ids) for event in late.commits] == [1]
        assert late.result.stats.steps == 3
        forbidden = scripted_fill([Hole(3)], tokens, eos="forbid")
        assert EOS in forbidden.requests[0].draws.forbidden

    def test_an_end_token_at_once_leaves_nothing(self, scripted_fill: Scripted) -> None:
        run = scripted_fill(["a", Hole(2), "b"], [0, EOS, 5, 0])
        assert (run.result.text, run.texts) == ("ab", [""])
        assert (run.result.holes[0].start, run.result.holes[0].stop) == (1, 1)

    def test_the_mask_token_in_a_text_is_no_hole(self, scripted_fill: Scripted) -> None:
        run = scripted_fill(["<mask>", Hole(1)], [0] * 6 + ids("x"))
        assert run.requests[0].ids.tolist() == [*ids("<mask>"), MASK]
        assert run.result.text == "<mask>x"

    def test_half_a_character_is_marked_and_spoils_no_text(self, scripted_fill: Scripted) -> None:
        half = ids("é")[:1]
        run = scripted_fill(["é", Hole(1), "é"], [0, 0, *half, 0, 0])
        assert run.result.text == "é\N{REPLACEMENT CHARACTER}é"

    def test_commits_come_with_whole_holes_and_make_the_text(self, scripted_fill: Scripted) -> None:
        pieces = ["<", Hole(2), ">", Hole(1), "."]
        run = scripted_fill(pieces, ids("?ab?c?"), [0, 0.9, 0.8, 0, 0.2, 0])
        assert [event.text for event in run.commits] == ["<", "ab>", "c."]
        assert [i for event in run.commits for i in event.ids] == run.result.ids

    def test_a_cancelled_filling_keeps_its_text(self, scripted_fill: Scripted) -> None:
        cancel = edge.CancelFlag()
        run = scripted_fill(
            ["<", Hole(3), ">", Hole(1), "."],
            ids("?abc?d?"),
            on_forward=lambda number: cancel.set() if number == 2 else None,
            cancel=cancel,
        )
        assert (run.result.status, run.result.complete) == ("cancelled", False)
        assert (run.result.text, run.texts) == ("<ab>.", ["ab", ""])

    def test_blocks_only_where_they_are_asked_for(self, scripted_fill: Scripted) -> None:
        pieces = [Hole(2), "-" * 8, Hole(2)]
        tokens, sure = ids("ab????????cd"), [0.1, 0.2, *[0] * 8, 0.8, 0.9]
        at_once = scripted_fill(pieces, tokens, sure)
        assert at_once.result.stats.steps_per_block == [4]
        in_blocks = scripted_fill(pieces, tokens, sure, block_length=4)
        assert in_blocks.result.stats.steps_per_block == [2, 2]
        assert at_once.result.text == in_blocks.result.text == "ab--------cd"

    def test_remasking_stays_in_the_holes(self, scripted_fill: Scripted) -> None:
        run = scripted_fill(["a", Hole(2), "b", Hole(2)], ids("?xy?zw"), steps=12, remask="conf")
        assert run.result.text == "axybzw"
        assert run.result.stats.remasked_tokens > 0
        for request in run.requests:
            assert [request.ids[0], request.ids[3]] == ids("ab")

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"max_tokens": 3}, "max_tokens is given, but the holes have sizes"),
            ({"reference": True}, "no published loop fills holes"),
            ({"tokens": 3}, "unknown option 'tokens'"),
            ({"steps": 0}, "steps is 0"),
        ],
    )
    def test_options_without_a_meaning(
        self, text_model: Callable[[str], Path], options: dict[str, Any], problem: str
    ) -> None:
        model = edge.load(text_model("llada"))
        with model, pytest.raises(RequestError, match=problem):
            model.fill(["a", Hole(1)], **options)


@pytest.fixture(scope="module", params=FULL)
def model(
    request: pytest.FixtureRequest, text_model: Callable[[str], Path]
) -> Iterator[edge.Model]:
    with edge.load(text_model(request.param), threads=1) as loaded:
        yield loaded


TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["<|im_end|>", "<|mask|>", "[[MASK:3]]", "\r\n", "\0", "\ufeff", "e\u0301", " ", "😀", "ab"]
    ),
)


class TestRealModels:
    @some
    @given(
        pieces=st.lists(st.one_of(TEXTS, st.integers(1, 4).map(Hole)), min_size=1, max_size=7),
        temperature=st.sampled_from([0.0, 2.0]),
        seed=st.integers(0, 99),
    )
    def test_given_text_comes_back_byte_for_byte(
        self, model: edge.Model, pieces: list[Any], temperature: float, seed: int
    ) -> None:
        pieces = [*pieces, Hole(2)] if all(isinstance(p, str) for p in pieces) else pieces
        commits: list[str] = []
        for event in model.stream_fill(pieces, steps=1, temperature=temperature, seed=seed):
            if isinstance(event, Commit):
                commits.append(event.text or "")
            if isinstance(event, Done):
                result = event.result
        holes = iter(result.holes)
        assert result.text == "".join(p if isinstance(p, str) else next(holes).text for p in pieces)
        assert result.text == "".join(commits)
        sizes = [piece.max_tokens for piece in pieces if isinstance(piece, Hole)]
        for hole, size in zip(result.holes, sizes, strict=True):
            assert result.text[hole.start : hole.stop] == hole.text
            assert len(hole.ids) <= size
        assert (result.status, result.complete) == ("complete", True)

    @some
    @given(
        template=st.lists(
            st.one_of(
                st.text("[]MASK:0129é\n\0", max_size=8),
                st.sampled_from(["[[MASK:", "[[MASK:2]]", "[[MASK:0]]", "[[MASK:600]]", "]]"]),
            ),
            max_size=6,
        ).map("".join)
    )
    def test_a_hostile_template_is_filled_or_refused(
        self, model: edge.Model, template: str
    ) -> None:
        with suppress(RequestError):
            text = model.fill(parse_template(template), steps=1).text
            assert text is not None
            around = re.split(r"\[\[MASK:[0-9]+\]\]", template)
            assert text.startswith(around[0])
            assert text.endswith(around[-1])

    def test_a_hole_at_the_end_is_what_generate_gives(self, model: edge.Model) -> None:
        filled = model.fill(["abba", Hole(6)], eos="forbid")
        generated = model.generate("abba", raw=True, max_tokens=6, block_length=6, eos="forbid")
        assert filled.holes[0].ids == generated.ids
        assert filled.text == "abba" + (generated.text or "")

    def test_what_follows_a_hole_matters(self, model: edge.Model) -> None:
        ends = {suffix: model.fill(["ab", Hole(3), suffix]).holes[0].ids for suffix in "xyz.,;01"}
        assert len({tuple(tokens) for tokens in ends.values()}) > 1

    def test_one_step_is_one_forward_over_the_canvas(self, model: edge.Model) -> None:
        result = model.fill(["ab", Hole(3), "c", Hole(2)], steps=1)
        assert (result.stats.nfe, result.stats.prompt_tokens) == (1, 2)  # "ab" is one token

    def test_every_option_that_changes_refinement_works(self, model: edge.Model) -> None:
        pieces = ["ab", Hole(5), "c", Hole(4), "d"]
        for options in (
            {"sampler": "low_confidence_dynamic", "threshold": 0.5},
            {"credit": True},
            {"early_stop": "stable"},
            {"remask": "conf", "steps": 20},
            {"cache": "dual", "block_length": 4},
            {"guidance": 1.0},
            {"budget_ms": 0.01},
            {"budget_ms": 1e5},
        ):
            result = model.fill(pieces, **options)
            assert result.complete
            assert [result.text[i] for i in (0, 1, -1)] == ["a", "b", "d"]  # type: ignore[index]

    def test_the_context_ends_somewhere(self, model: edge.Model) -> None:
        assert model.fill([Hole(510), "xy"], steps=1).complete
        for hole in (511, 10**9):
            with pytest.raises(ContextLengthError, match=f"{hole + 2} tokens.*context 512"):
                model.fill([Hole(hole), "xy"])

    def test_text_that_is_no_unicode(self, model: edge.Model) -> None:
        with pytest.raises(RequestError, match="lone surrogate"):
            model.fill(["a\ud800", Hole(1)])

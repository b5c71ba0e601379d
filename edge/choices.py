"""Each hole becomes the likeliest of some given texts.

A choice of the tokens x_1 .. x_n is put where the hole is, and scored by

    1/n * sum over i of log p(x_i | x_1 .. x_i-1, all that is known outside the hole)

with masks for x_i .. x_n: the chain rule from left to right inside the hole, both sides of the
text in view (Kauf and Ivanova 2023, "A better way to do masked language model scoring", arXiv
2305.10588, within a word; a masked denoiser is trained for any order, Hoogeboom et al. 2022,
"Autoregressive diffusion models", arXiv 2110.02037). The mean per token, because a canvas with n
masks tells the length, so that the sum would punish long choices for what is given. Of equal
scores the first choice wins.

Of several holes the one is decided whose best choice leads by most, of equal leads the first; the
others are then scored anew with it in place. Until decided a hole is as wide as the longest choice.

Choices that share a length and a beginning share forwards: one forward decides a hole whose
choices are a token each. Under a latency budget the first forward of each length is the least
answer: with all of the hole masked it gives every term a first value. Where no more fit, the
latest values decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from reprlib import repr as shown
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.canvas import Canvas
from edge.costs import StepCosts
from edge.engine import Engine
from edge.errors import RequestError
from edge.filling import Content, FilledText, Form
from edge.machine import peak_rss_bytes
from edge.request import GenerateConfig
from edge.result import Commit, Done, Draft, Result, Stats
from edge.stopwatch import Stopwatch

MAX_CHOICES = 1 << 12

Floats = NDArray[np.float64]

# What a request with choices can be asked beside them.
_USED = ("seed", "budget_ms", "deadline", "on_infeasible", "on_step", "cancel")


@dataclass(frozen=True)
class Choice:
    """A given text and its ids [tokens]."""

    text: str
    ids: NDArray[np.int32]


@dataclass(frozen=True)
class _Question:
    """The term ``index`` of a choice in a hole: a token at a position of some canvas."""

    hole: int
    choice: int
    index: int
    position: int
    token: int


@dataclass(frozen=True)
class _Forward:
    """A canvas, where its first block begins, and what is asked of it."""

    ids: NDArray[np.int32]
    output_start: int
    questions: list[_Question]


def choose(
    engine: Engine,
    form: Form,
    texts: Sequence[str],
    options: GenerateConfig,
    started_ns: int,
    costs: Callable[[], StepCosts],
) -> Iterator[Draft | Commit | Done]:
    """Fill a form's holes with the likeliest of some texts.

    Raises RequestError for options without effect and for choices that no hole can take,
    ContextLengthError and UnsupportedModelError where the canvas does not fit.
    """
    _check_options(options)
    choices = _read_choices(texts, form)
    return Choosing(engine, form, choices, options, started_ns, costs).run()


def _read_choices(texts: Sequence[str], form: Form) -> list[Choice]:
    """Tokenize the choices.

    Raises RequestError for none, one twice, one that the model cannot write or a hole not hold.
    """
    is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
    if not is_list or not all(isinstance(text, str) for text in texts):
        raise RequestError("the choices are no list of texts", hint="give a list of texts")
    if not 1 <= len(texts) <= MAX_CHOICES:
        raise RequestError(f"{len(texts)} choices are given", hint=f"give 1 to {MAX_CHOICES}")
    for index, text in enumerate(texts):
        if text in texts[:index]:
            raise RequestError(f"the choice {shown(text)} is given twice", hint="give it once")
        if not form.tokenizer.can_write(text):
            raise RequestError(
                f"the choice {shown(text)} is nothing that this model can write",
                hint="leave it out or choose another model",
            )
    encoded = form.tokenizer.encode_parts(["", *texts, ""])[1:-1]
    room = min(hole.max_tokens for hole in form.holes)
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) > room:
            raise RequestError(
                f"the choice {shown(text)} has {len(ids)} tokens, a hole at most {room}",
                hint="make the holes larger",
            )
    return [Choice(text, ids) for text, ids in zip(texts, encoded, strict=True)]


def _check_options(options: GenerateConfig) -> None:
    """Raise RequestError for options that choosing has no use for."""
    for field in fields(options):
        if field.name not in _USED and getattr(options, field.name) != field.default:
            raise RequestError(
                f"{field.name} has no effect on holes that are filled from choices",
                hint="leave it out",
            )


def _questions(
    hole: int, number: int, choice: Choice, first: int, depth: int
) -> Iterator[_Question]:
    """Ask for the tokens from ``depth`` on of a choice whose hole begins at ``first``."""
    for index in range(depth, len(choice.ids)):
        yield _Question(hole, number, index, first + index, int(choice.ids[index]))


class Choosing:
    """One request: holes filled from choices."""

    def __init__(
        self,
        engine: Engine,
        form: Form,
        choices: Sequence[Choice],
        options: GenerateConfig,
        started_ns: int,
        costs: Callable[[], StepCosts],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Raises what ``Form.canvas`` raises where the choices do not fit."""
        self._engine = engine
        self._form = form
        self._choices = choices
        self._options = options
        self._watch = Stopwatch(options, started_ns, costs, clock)
        self._widest = max(len(choice.ids) for choice in choices)
        self._picks: list[int | None] = [None] * len(form.holes)
        # Latest log-probabilities per hole and choice, [tokens of the choice] each.
        self._terms = [[np.full(len(c.ids), np.nan) for c in choices] for _ in form.holes]
        self._filled = FilledText(form)
        self._nfe = self._steps = 0
        self._num_given = len(self._canvas({})[0]) - self._widest * len(form.holes)

    def run(self) -> Iterator[Draft | Commit | Done]:
        """Yield a Draft per decision, a Commit whenever the text's beginning grows, then Done."""
        while None in self._picks and not self._watch.stopped:
            if not self._score():
                break
            self._decide()
            yield self._draft()
            yield from self._commit()
        status = self._status()
        if status != "cancelled":
            while None in self._picks:
                self._decide()
        yield from self._commit(everything=True)
        stats = self._stats()
        complete = status != "cancelled"
        yield Done(self._filled.finish(Result("", [], status, complete, stats)))

    def _score(self) -> bool:
        """Score every choice in every open hole; False when cancelled."""
        for depth in range(self._widest):
            for forward in self._forwards(depth):
                questions = sorted(forward.questions, key=lambda question: question.position)
                answers = self._ask(forward, questions)
                if answers is None:
                    return not self._options.is_cancelled
                for question, answer in zip(questions, answers.tolist(), strict=True):
                    self._terms[question.hole][question.choice][question.index] = answer
            self._watch.answered = True
        return True

    def _forwards(self, depth: int) -> list[_Forward]:
        """Canvases with ``depth`` tokens of each choice in place, and what to ask of them."""
        asked: dict[bytes, _Forward] = {}
        common = self._canvas({})  # most often the choices are equally long
        for hole in self._open():
            for width in sorted({len(choice.ids) for choice in self._choices}):
                if depth >= width:
                    continue
                narrow = width < self._widest
                canvas, spans = self._canvas({hole: width}) if narrow else common
                for number, choice in enumerate(self._choices):
                    if len(choice.ids) == width:
                        ids, first = canvas.ids.copy(), spans[hole][0]
                        ids[first : first + depth] = choice.ids[:depth]
                        forward = _Forward(ids, canvas.output_start, [])
                        forward = asked.setdefault(ids.tobytes(), forward)
                        forward.questions.extend(_questions(hole, number, choice, first, depth))
        return list(asked.values())

    def _ask(self, forward: _Forward, questions: list[_Question]) -> Floats | None:
        """Run a forward; None when it was stopped, which the least answer is only by an error."""
        positions = np.array([question.position for question in questions], np.int32)
        tokens = np.array([question.token for question in questions], np.int32)
        ask = partial(
            self._engine.log_probabilities,
            forward.ids,
            forward.output_start,
            positions,
            tokens,
            cancel=self._options.cancel,
            deadline_ns=self._watch.limit_ns,
        )
        self._nfe += 1
        answers = self._watch.run(ask, len(forward.ids), len(tokens))
        if not self._options.is_cancelled:
            self._watch.check()
        return answers

    def _open(self) -> list[int]:
        return [hole for hole, pick in enumerate(self._picks) if pick is None]

    def _canvas(self, widths: dict[int, int]) -> tuple[Canvas, list[tuple[int, int]]]:
        """The canvas with all decisions in place; open holes are as wide as told, or the widest."""
        sizes = [
            widths.get(hole, self._widest) if pick is None else len(self._choices[pick].ids)
            for hole, pick in enumerate(self._picks)
        ]
        canvas, spans = self._form.canvas(sizes)
        for (start, stop), pick in zip(spans, self._picks, strict=True):
            if pick is not None:
                canvas.ids[start:stop] = self._choices[pick].ids
        return canvas, spans

    def _scores(self, hole: int) -> Floats:
        return np.array([terms.mean() for terms in self._terms[hole]])

    def _decide(self) -> None:
        """Fill the open hole whose best choice leads by most."""
        leads = []
        for hole in self._open():
            best, *others = sorted(self._scores(hole), reverse=True)
            leads.append((best - others[0] if others else np.inf, hole))
        hole = max(leads, key=lambda lead: lead[0])[1]
        self._picks[hole] = int(self._scores(hole).argmax())
        self._steps += 1

    def _draft(self) -> Draft:
        best = {hole: int(self._scores(hole).argmax()) for hole in self._open()}
        canvas, spans = self._canvas({h: len(self._choices[c].ids) for h, c in best.items()})
        drawn, sure = canvas.ids.copy(), np.full(len(canvas), np.nan, np.float32)
        committed = canvas.given.copy()
        for hole, ((start, stop), pick) in enumerate(zip(spans, self._picks, strict=True)):
            number = best[hole] if pick is None else pick
            drawn[start:stop] = self._choices[number].ids
            sure[start:stop] = np.exp(self._terms[hole][number])
            committed[start:stop] = pick is not None
        draft = Draft(
            self._steps, self._nfe, 0, 1, 0, canvas.ids, drawn, committed, sure, canvas.given
        )
        self._watch.note("ttfd_ms")
        if self._options.on_step is not None:
            self._options.on_step(draft)
        return draft

    def _commit(self, *, everything: bool = False) -> Iterator[Commit]:
        def content(hole: int, at: int) -> Content | None:
            del at  # a choice is a text of its own
            pick = self._picks[hole]
            if pick is None:
                return Content([], self._widest, "") if everything else None
            choice, scores = self._choices[pick], self._scores(hole).tolist()
            named = dict(zip((c.text for c in self._choices), scores, strict=True))
            return Content(choice.ids.tolist(), len(choice.ids), choice.text, named)

        commit = self._filled.advance(content)
        if commit is not None:
            self._watch.note("ttft_ms")
            yield commit

    def _status(self) -> str:
        if self._options.is_cancelled and None in self._picks:
            return "cancelled"
        if self._watch.late:
            return "deadline_infeasible"
        return "filled" if self._watch.stopped else "complete"

    def _stats(self) -> Stats:
        picked = [self._terms[h][p] for h, p in enumerate(self._picks) if p is not None]
        sure = np.exp(np.concatenate([*picked, np.empty(0)]))
        num_tokens, backend = len(sure), self._engine.backend
        figures: dict[str, Any] = {
            field.name: 0 if field.type in ("int", "float") else None for field in fields(Stats)
        }
        times = self._watch.figures()
        figures |= {
            "sampler": "choices",
            "sampler_parameters": {"choices": [choice.text for choice in self._choices]},
            "seed": self._options.seed,
            "steps": self._steps,
            "steps_per_block": [self._steps],
            "nfe": self._nfe,
            "prompt_tokens": self._num_given,
            "tokens": num_tokens,
            "tokens_per_forward": num_tokens / max(1, self._nfe),
            "tokens_per_step": num_tokens / max(1, self._steps),
            "tokens_per_s": num_tokens / max(1e-9, times["elapsed_ms"] / 1e3),
            "mean_confidence": float(sure.mean()) if num_tokens else None,
            "min_confidence": float(sure.min()) if num_tokens else None,
            "cache": "exact",
            "backend": backend.name,
            "isa": backend.isa,
            "threads": backend.threads,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        return Stats(**{**figures, **times})

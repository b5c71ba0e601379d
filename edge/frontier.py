"""Quality against latency: how often a denoiser's answers are right, by steps and by budget.

A task file has a problem per line: a JSON object ``{"prompt": ..., "answer": ...}``, or
``{"prompt": ..., "pattern": ...}`` with a regular expression that the whole answer must match, or
for a model with a task of its own just the prompt, which the task checks by its rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from edge.errors import RequestError
from edge.model import Model
from edge.result import Result

NUM_BUDGETS = 10
NUM_TRIALS = 8  # problems that tell how long a full run takes

_TOO_SHORT_MS = 1e-3
_HINT = 'write {"prompt": ..., "answer": ...} or {"prompt": ..., "pattern": ...} per line'


@dataclass(frozen=True)
class Problem:
    """A prompt and whether a result answers it."""

    prompt: str
    is_right: Callable[[Result], bool]


@dataclass(frozen=True)
class Setting:
    """One way of asking: so many ``steps``, or within ``budget_ms``, or neither (a full run)."""

    steps: int | None = None
    budget_ms: float | None = None

    @property
    def kind(self) -> str:
        """``steps``, ``budget`` or ``full``."""
        return "full" if self == Setting() else "budget" if self.steps is None else "steps"

    @property
    def label(self) -> str:
        """For people."""
        if self.budget_ms is not None:
            return f"{self.budget_ms:.3g} ms"
        if self.steps is None:
            return "full run"
        return f"{self.steps} step{'s' * (self.steps > 1)}"


@dataclass(frozen=True)
class Point:
    """What ``count`` problems gave in one setting.

    ``quality`` is the share of right answers and ``quality_error`` its standard error; times are
    in ms; ``nfe`` and ``forced_tokens`` are means. ``complete`` is the share of whole answers,
    ``late`` of those after their budget, ``late_ms_p99`` the 99th percentile of how late.
    """

    setting: Setting
    count: int
    quality: float
    quality_error: float
    elapsed_ms_p50: float
    elapsed_ms_p95: float
    nfe: float
    forced_tokens: float
    complete: float
    late: float
    late_ms_p99: float


def read_problems(path: str | PathLike[str], model: Model, limit: int | None) -> list[Problem]:
    """Read a task file; raises RequestError naming the line that is none, OSError."""
    problems: list[Problem] = []
    for number, line in enumerate(_lines(path), 1):
        if limit is not None and len(problems) >= limit:
            break
        if line.strip():
            try:
                problems.append(_problem(line.strip(), model))
            except RequestError as error:
                what = f"line {number} of the task file: {error.what}"
                raise RequestError(what, path=path, hint=error.hint) from None
    if not problems:
        raise RequestError("the task file has no line", path=path, hint=_HINT)
    return problems


def default_settings(model: Model, problems: Sequence[Problem], options: Any) -> list[Setting]:
    """Steps in powers of two, and budgets from the smallest feasible to a full run's time."""
    trials = problems[:NUM_TRIALS]
    full = [model.generate(problem.prompt, **options).stats for problem in trials]
    most = max(stats.steps for stats in full)
    steps = [2**i for i in range(most.bit_length()) if 2**i < most]
    longest = median(stats.elapsed_ms for stats in full)
    budgets = feasible_budgets(model, trials, options, longest, NUM_BUDGETS)
    return [*(Setting(steps=n) for n in steps), *(Setting(budget_ms=ms) for ms in budgets)]


def feasible_budgets(
    model: Model, trials: Sequence[Problem], options: Any, longest_ms: float, count: int
) -> list[float]:
    """``count`` budgets in ms, log-spaced from the smallest feasible one to ``longest_ms``."""
    least = [
        model.generate(problem.prompt, budget_ms=_TOO_SHORT_MS, **options).stats.min_budget_ms
        for problem in trials
    ]
    shortest = median(ms or 0.0 for ms in least)
    return [float(ms) for ms in np.geomspace(min(shortest, longest_ms), longest_ms, count)]


def run_frontier(
    model: Model,
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    *,
    options: dict[str, Any],
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Point]:
    """Answer every problem in every setting; a full run is always among them.

    Each problem meets the settings in an order of its own, drawn by ``seed``, so that a machine
    that changes its pace changes it for all of them. ``advance`` gets the answers so far.
    """
    asked = [*settings, Setting()]
    found: list[list[tuple[bool, Result]]] = [[] for _ in asked]
    chance = np.random.default_rng(seed)
    for number, problem in enumerate(problems):
        for index in chance.permutation(len(asked)):
            each = asked[index]
            result = model.generate(
                problem.prompt, steps=each.steps, budget_ms=each.budget_ms, seed=seed, **options
            )
            found[index].append((problem.is_right(result), result))
        advance((number + 1) * len(asked))
    return [_point(each, answers) for each, answers in zip(asked, found, strict=True)]


def _point(setting: Setting, answers: Sequence[tuple[bool, Result]]) -> Point:
    stats = [result.stats for _, result in answers]
    quality = fmean(is_right for is_right, _ in answers)
    elapsed = [each.elapsed_ms for each in stats]
    late = [max(0.0, each.overshoot_ms or 0.0) for each in stats]
    return Point(
        setting=setting,
        count=len(answers),
        quality=quality,
        quality_error=(quality * (1 - quality) / len(answers)) ** 0.5,
        elapsed_ms_p50=median(elapsed),
        elapsed_ms_p95=float(np.percentile(elapsed, 95)),
        nfe=fmean(each.nfe for each in stats),
        forced_tokens=fmean(each.forced_tokens for each in stats),
        complete=fmean(result.complete for _, result in answers),
        late=fmean(ms > 0 for ms in late),
        late_ms_p99=float(np.percentile(late, 99)),
    )


def _lines(path: str | PathLike[str]) -> Iterator[str]:
    with Path(path).open(encoding="utf-8") as file:
        try:
            yield from file
        except UnicodeDecodeError:
            hint = "convert it, for example with iconv -t UTF-8"
            raise RequestError("the task file is not UTF-8", path=path, hint=hint) from None


def _problem(line: str, model: Model) -> Problem:
    if not line.startswith("{"):
        return _by_rules(line, model)
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError("no JSON object", hint=_HINT) from None
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not set(fields) <= {"prompt", "answer", "pattern"}:
        raise RequestError(f"an object with {', '.join(fields) or 'nothing'}", hint=_HINT)
    if len(fields) == 1:
        return _by_rules(prompt, model)
    return Problem(prompt, _expectation(fields))


def _by_rules(prompt: str, model: Model) -> Problem:
    if model.task is None:
        raise RequestError("nothing says what answer is right", hint=_HINT)
    model.task.check_prompt(prompt)
    return Problem(prompt, lambda result: result.verified is True)


def _expectation(fields: dict[str, Any]) -> Callable[[Result], bool]:
    answer, pattern = fields.get("answer"), fields.get("pattern")
    if isinstance(answer, str) and pattern is None:
        return lambda result: (result.text or "").strip() == answer.strip()
    if not isinstance(pattern, str) or answer is not None:
        raise RequestError("neither one answer nor one pattern", hint=_HINT)
    try:
        expression = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise RequestError(f"the pattern is no regular expression: {error}", hint=_HINT) from None
    return lambda result: expression.fullmatch((result.text or "").strip()) is not None

"""What the user asks for: options, each checked by itself and against the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from edge import early_stop
from edge._native import CancelFlag
from edge.config import RANKS
from edge.engine import Candidates
from edge.errors import RequestError
from edge.result import Draft

EOS_RULES = ("stop", "late", "forbid")
ON_TIGHT = ("shorten", "coarse")
ON_INFEASIBLE = ("best_effort", "error")
CACHES = ("exact", "dual")
EARLY_STOPS = ("none", *early_stop.RULES)
REMASKS = ("none", "conf")
PRESETS = ("quality", "speed")

_KINDS: dict[str, Any] = {
    "sampler": str,
    "fused": bool,
    "credit": bool,
    "reference": bool,
    "on_step": Callable,
    "cancel": CancelFlag,
}
_ALWAYS = ("temperature", "guidance", "reference")  # have a default of their own, not None
_CHOICES = {
    "rank": RANKS,
    "preset": PRESETS,
    "eos": EOS_RULES,
    "cache": CACHES,
    "early_stop": EARLY_STOPS,
    "remask": REMASKS,
    "on_tight": ON_TIGHT,
    "on_infeasible": ON_INFEASIBLE,
}
_COUNTS = ("max_tokens", "steps", "steps_per_block", "block_length", "top_k", "cache_window")
_TINY = 1e-9
_RANGES = {
    "temperature": (0.0, 1e4),
    "threshold": (_TINY, 1.0),
    "segment_threshold": (_TINY, 1.0),
    "edit_threshold": (0.0, 1.0),
    "factor": (_TINY, 1e9),
    "entropy_bound": (_TINY, 1e9),
    "top_p": (_TINY, 1.0),
    "guidance": (0.0, 1e3),
    "budget_ms": (_TINY, 1e12),
    "deadline": (-1e12, 1e12),
}


@dataclass(frozen=True)
class GenerateConfig:
    """Options of ``generate``, ``generate_ids`` and ``stream``; None means the file's default.

    max_tokens: cap on new tokens, honoured exactly (128, less where the context ends).
    steps: denoising steps for the whole request, shared out over its blocks.
    steps_per_block: the same per block; give one of the two. Neither: a token per step.
    block_length: how many positions are refined together.
    sampler: name of the rule that picks what to commit, one of ``edge.samplers.names()``.
    threshold: confidence in (0, 1] above which ``low_confidence_dynamic``, ``block_refinement``
        and ``hierarchical`` commit.
    edit_threshold: confidence above which ``joint_threshold`` replaces a token that stands.
    post_edit_steps: of ``joint_threshold``, how many steps of a block may only edit (16), within
        the steps that are given. Under a latency budget nothing is edited.
    preset: of ``joint_threshold``, "quality" or "speed": its thresholds where none are given.
    segment_threshold: of ``hierarchical``, for the best of a run of holes (0.4).
    factor: of the sampler ``factor``; larger commits more at once.
    entropy_bound: nats, of the sampler ``entropy_bounded``.
    rank: what makes a position sure: confidence, margin, entropy or random.
    temperature: 0 takes the most probable token, above that tokens are drawn.
    top_k, top_p: draw among the k most probable tokens, among the fewest that reach p.
    seed: of the draws, 0 to 2**64 - 1.
    guidance: scale of classifier-free guidance, 0 for none; doubles the forwards.
    eos: "stop" ends the answer at an end token once all before it is committed, "late" commits
        end tokens last, "forbid" never.
    early_stop: "stable" fills the rest of a block once its candidates stay the same, "schedule"
        once the mean logit margin is large for the progress made; "none" (default).
    remask: "conf" spends planned steps that are left over, or time of a latency budget that
        nothing else can use, on masking the least sure tokens of the answer and deciding them
        anew; "none" (default). Text is then given out late.
    credit: raise the logits of candidates that stay first over the steps, so that they are
        committed sooner; needs temperature 0.
    cache: "exact" reuses only what cannot change; "dual" (fully bidirectional models) computes
        the block and its surroundings against older keys and values: faster, approximate.
    cache_window: of "dual", how many tokens on either side of the block are computed (16).
    fused: store a finished block (and the prompt) in the first forward of the next one: same
        results, fewer forwards. Default: where that is exact.
    budget_ms: latency budget in ms, counted from the entry of the call; the answer is done by then.
        ``steps`` and ``steps_per_block`` are then upper bounds; without them the budget decides.
    deadline: the same as an instant of ``time.monotonic()``; give one of the two.
    on_tight: where not every block can have its step: "shorten" the answer, or keep its length by
        denoising several blocks at once ("coarse"; models that attend in blocks or causally).
    on_infeasible: what a budget too short for anything means: "best_effort", the least answer
        possible, late; or "error", a BudgetError.
    reference: run the model family's published loop exactly: no progress floor, no ban on
        predicting the mask token, every planned step, every store forward.
    on_step: called with each Draft.
    cancel: set it from any thread to end the request within a layer's time.
    """

    max_tokens: int | None = None
    steps: int | None = None
    steps_per_block: int | None = None
    block_length: int | None = None
    sampler: str | None = None
    threshold: float | None = None
    segment_threshold: float | None = None
    edit_threshold: float | None = None
    post_edit_steps: int | None = None
    preset: str | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    rank: str | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    guidance: float = 0.0
    eos: str = "stop"
    early_stop: str = "none"
    remask: str = "none"
    credit: bool = False
    cache: str = "exact"
    cache_window: int | None = None
    fused: bool | None = None
    budget_ms: float | None = None
    deadline: float | None = None
    on_tight: str = "shorten"
    on_infeasible: str = "best_effort"
    reference: bool = False
    on_step: Callable[[Draft], None] | None = None
    cancel: CancelFlag | None = None

    @property
    def has_budget(self) -> bool:
        """Whether there is a time by which the answer has to be there."""
        return self.budget_ms is not None or self.deadline is not None

    def budget_ns(self, started_ns: int) -> float:
        """Time from an instant of ``time.monotonic_ns()`` on, infinite without a budget."""
        if self.deadline is not None:
            return self.deadline * 1e9 - started_ns
        return math.inf if self.budget_ms is None else self.budget_ms * 1e6

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has changed their mind."""
        return self.cancel is not None and self.cancel.is_set()

    @property
    def candidates(self) -> Candidates:
        """What the engine is asked to draw."""
        return Candidates(
            temperature=self.temperature,
            top_k=self.top_k or 0,
            top_p=self.top_p or 1.0,
            seed=self.seed,
            forbid_eos=self.eos == "forbid",
            mask_is_a_token=self.reference,
        )

    @classmethod
    def of(cls, options: dict[str, Any]) -> GenerateConfig:
        """Raises RequestError for an unknown option or an impossible value."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise RequestError(f"unknown option {unknown[0]!r}", hint=f"use {', '.join(known)}")
        config = cls(**options)
        config.check()
        return config

    def check(self) -> None:
        """Raises RequestError naming the option, what came, what is wanted."""
        for name in _COUNTS:
            _check_count(name, getattr(self, name))
        _check_count("post_edit_steps", self.post_edit_steps, low=0)
        for name, (low, high) in _RANGES.items():
            _check_number(name, getattr(self, name), low, high)
        for name, allowed in _CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        for name, kind in _KINDS.items():
            _check_kind(name, getattr(self, name), kind)
        if not _is_whole(self.seed) or not 0 <= self.seed < 1 << 64:
            raise RequestError(
                f"seed is {self.seed!r}", hint="give a whole number from 0 to 2**64 - 1"
            )
        if self.steps is not None and self.steps_per_block is not None:
            raise RequestError("steps and steps_per_block are both given", hint="give one of them")
        self._check_together()

    def _check_together(self) -> None:
        if self.budget_ms is not None and self.deadline is not None:
            raise RequestError("budget_ms and deadline are both given", hint="give one of them")
        if self.reference and self.has_budget:
            raise RequestError(
                "reference is given with a latency budget, which it does not keep",
                hint="leave one of them out",
            )
        for name in ("credit", "early_stop", "remask", "fused", "cache"):
            is_off = getattr(self, name) in (None, False, "none", "exact")
            if self.reference and not is_off:
                raise RequestError(
                    f"{name} and reference are both given, but no published loop has it",
                    hint="give one of them",
                )
        if self.credit and self.temperature > 0:
            raise RequestError(
                "credit is given, but temperature is not 0", hint="leave one of them out"
            )
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise RequestError(
                "top_k or top_p is given, but temperature is 0, so nothing is drawn",
                hint="leave them out or give a temperature",
            )


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_count(name: str, value: Any, low: int = 1) -> None:
    if value is not None and (not _is_whole(value) or value < low):
        raise RequestError(f"{name} is {value!r}", hint=f"give a whole number of at least {low}")


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if value is None and name not in _ALWAYS:
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # NaN is in no range
        raise RequestError(f"{name} is {value!r}", hint=f"give a number from {low:g} to {high:g}")


def _check_kind(name: str, value: Any, kind: Any) -> None:
    if (value is not None or name in _ALWAYS) and not isinstance(value, kind):
        raise RequestError(f"{name} is {value!r}", hint=f"give a {kind.__name__}")


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise RequestError(f"{name} is {value!r}", hint=f"use {', '.join(allowed)}")

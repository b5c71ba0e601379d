"""What a request yields: events while it runs, a result at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stats:
    """Figures of one request; times are in ms.

    ``nfe`` counts forwards, ``steps`` those that ended in a decision; ``prompt_tokens`` the
    tokens asked with, ``reused_tokens`` how many of them an earlier turn of a conversation had
    stored already; ``tokens`` the tokens given. ``forced_tokens`` are those among them that the
    rule alone would not have committed yet: the progress floor or an early stop did, or under a
    latency budget the clock, and then only those count whose confidence is not above the
    threshold. ``mean_confidence`` and
    ``min_confidence`` are over the committed tokens' probabilities, ``sampler_parameters`` what
    the rule worked with; ``remasked_tokens`` is how often one was put back to the mask to be
    decided anew, ``edited_tokens`` how often one was replaced. ``cache`` says what was reused:
    ``exact`` what cannot change, ``dual`` what may have; ``exact`` although ``dual`` was asked
    for means that it saved nothing. ``refreshes`` counts the full forwards of ``dual``, and
    ``cache_top1_disagreement`` is the share of open positions whose best candidate such a refresh
    changed (None when none was compared).

    Of the sampler ``speculative``: ``drafts`` were compared with what the model itself says next,
    ``drafted_tokens`` in all, of which ``accepted_tokens`` agreed and were kept.
    ``unverified_tokens`` are tokens of the answer that nothing compared, for want of time.

    ``prefill_ms``, ``denoise_ms`` and ``store_ms`` are spent in forwards of that kind (the one
    that computes the prompt may be the first step as well), ``head_ms`` is the head's share of
    them, ``refresh_ms`` what of ``denoise_ms`` went into full forwards of the ``dual`` cache.
    ``ttfd_ms``, ``ttft_ms`` and ``t_first_block_ms`` are the times to the first draft, the
    first committed text and the first whole block.

    Of the latency budget, None without one: ``overshoot_ms`` is negative where time was left;
    ``predicted_ms`` was expected when the plan was made; ``min_budget_ms`` is the smallest
    feasible budget; ``cost_u`` is measured over predicted time of a forward at the end, ``cost_v``
    its mean deviation; ``cost_source`` says where predictions come from: ``calibration``,
    ``steps`` of earlier requests, or a ``guess``.
    """

    sampler: str
    sampler_parameters: dict[str, Any]
    seed: int
    budget_ms: float | None
    elapsed_ms: float
    overshoot_ms: float | None
    predicted_ms: float | None
    min_budget_ms: float | None
    steps: int
    steps_per_block: list[int]
    nfe: int
    prompt_tokens: int
    reused_tokens: int
    tokens: int
    tokens_per_forward: float
    tokens_per_step: float
    tokens_per_s: float
    ttft_ms: float | None
    ttfd_ms: float | None
    t_first_block_ms: float | None
    prefill_ms: float
    denoise_ms: float
    store_ms: float
    refresh_ms: float
    head_ms: float
    step_ms_p50: float | None
    step_ms_p99: float | None
    forced_tokens: int
    remasked_tokens: int
    drafts: int
    drafted_tokens: int
    accepted_tokens: int
    unverified_tokens: int
    edited_tokens: int
    mean_confidence: float | None
    min_confidence: float | None
    cost_u: float | None
    cost_v: float | None
    cost_source: str | None
    cache: str
    refreshes: int
    cache_top1_disagreement: float | None
    backend: str
    isa: str
    threads: int
    peak_rss_bytes: int


@dataclass(frozen=True)
class FilledHole:
    """What a hole has become: characters ``start`` to before ``stop`` of the text.

    ``ids`` are its tokens without the end token. ``scores`` belong to given choices: the
    denoiser's mean log-probability per token of each, in nats; None without choices.
    """

    text: str
    start: int
    stop: int
    ids: list[int]
    scores: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Result:
    """A finished request.

    ``ids`` are the new tokens (the whole canvas for a model that refines in place, all of the
    text where holes were filled), ``text`` is None for a model without a tokenizer. ``status`` is
    one of

    - ``complete``: every token asked for; ``eos``: an end token ended the answer;
    - ``filled``: whole, but the budget ended before some tokens' own step, so that they are the
      best guesses of the last one that looked at them;
    - ``shortened``: blocks are missing at the end, there was no time for them;
    - ``deadline_infeasible``: the budget was too short for anything; this is the least answer;
    - ``cancelled``: what was committed by then;
    - ``error`` is never in a result: errors are raised (``edge run --json`` prints it).

    ``holes`` are the filled ones, in order, of a template, and none otherwise. ``complete`` says
    whether the answer is whole. ``verified`` says whether the model's task
    accepts the answer, None without a task.
    """

    text: str | None
    ids: list[int]
    status: str
    complete: bool
    stats: Stats
    verified: bool | None = None
    holes: tuple[FilledHole, ...] = ()


@dataclass(frozen=True)
class Draft:
    """The canvas after a denoising step; arrays are [canvas] and belong to the receiver.

    ``step`` and ``nfe`` count from 1. ``ids`` hold mask tokens where nothing is committed,
    ``draft_ids`` the present guesses there; ``confidence`` is NaN where this step did not look,
    ``given`` marks what was never open.
    """

    step: int
    nfe: int
    block: int
    num_blocks: int
    output_start: int
    ids: NDArray[np.int32]
    draft_ids: NDArray[np.int32]
    committed: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    given: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Commit:
    """A further piece of the answer that will not change; the pieces concatenate to it."""

    text: str | None
    ids: list[int]


@dataclass(frozen=True)
class Done:
    """The last event."""

    result: Result

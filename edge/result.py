"""What a request yields: events while it runs, a result at its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stats:
    """Figures of one request.

    ``nfe`` counts forwards, ``steps`` those that ended in a decision; ``tokens`` the tokens
    given, ``forced_tokens`` those that only the progress floor or an early stop committed,
    ``remasked_tokens`` how often one was put back to the mask to be decided anew;
    ``mean_confidence`` is over the committed tokens' probabilities (None when there are none).
    ``cache`` says what was reused: ``exact`` what cannot change, ``dual`` what may have. Then
    ``refreshes`` counts the full forwards, and ``cache_top1_disagreement`` is the share of open
    positions whose best candidate such a refresh changed (None when none was compared).
    Times are in ms; ``prefill_ms`` is that of the forward that computes the prompt, which may be
    the first step as well; ``ttft_ms`` is the time to the first committed text. Without a latency
    budget ``budget_ms`` and ``overshoot_ms`` are None.
    """

    sampler: str
    seed: int
    budget_ms: float | None
    elapsed_ms: float
    overshoot_ms: float | None
    steps: int
    nfe: int
    tokens: int
    tokens_per_forward: float
    tokens_per_s: float
    ttft_ms: float | None
    prefill_ms: float
    denoise_ms: float
    forced_tokens: int
    remasked_tokens: int
    mean_confidence: float | None
    cache: str
    refreshes: int
    cache_top1_disagreement: float | None
    backend: str
    isa: str
    threads: int
    peak_rss_bytes: int


@dataclass(frozen=True)
class Result:
    """A finished request.

    ``ids`` are the new tokens (the whole canvas for a model that refines in place), ``text`` is
    None for a model without a tokenizer. ``status`` is ``complete``, ``eos`` or ``cancelled``;
    a cancelled answer holds what was committed. ``verified`` says whether the model's task
    accepts the answer, None without a task.
    """

    text: str | None
    ids: list[int]
    status: str
    complete: bool
    stats: Stats
    verified: bool | None = None


@dataclass(frozen=True)
class Draft:
    """The canvas after a denoising step; arrays are [canvas] and belong to the receiver.

    ``step`` and ``nfe`` count from 1. ``ids`` hold mask tokens where nothing is committed,
    ``draft_ids`` the present guesses there; ``confidence`` is NaN where this step did not look.
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


@dataclass(frozen=True)
class Commit:
    """A further piece of the answer that will not change; the pieces concatenate to it."""

    text: str | None
    ids: list[int]


@dataclass(frozen=True)
class Done:
    """The last event."""

    result: Result

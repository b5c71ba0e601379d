"""What a request adds up while it runs, and the statistics that come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Backend
from edge.dual_cache import DualCache
from edge.machine import peak_rss_bytes
from edge.paced import Paced
from edge.plan import Plan
from edge.result import Stats


class Forwards(Protocol):
    """What is told of the forwards of a request and of what they reused."""

    forwards: int
    dual: DualCache | None
    deadline_ns: int
    shape: tuple[int, int, int]

    @property
    def num_refreshes(self) -> int: ...

    @property
    def cache(self) -> str: ...


@dataclass
class Tally:
    """Counts of a request so far; times in ns, instants on the request's clock."""

    started_ns: int
    steps: int = 0
    steps_of_block: dict[int, int] = field(default_factory=dict)
    spent_ns: dict[str, int] = field(default_factory=dict)  # by kind of forward
    step_times_ns: list[int] = field(default_factory=list)
    head_ns: int = 0
    first_draft_ns: int | None = None
    first_text_ns: int | None = None
    first_block_ns: int | None = None
    refresh_ns: int = 0
    remasked_tokens: int = 0
    drafts: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    unverified_tokens: int = 0

    def forward(self, kind: str, spent_ns: int, head_ns: int) -> None:
        """Add a forward: ``prefill``, ``denoise`` or ``store``."""
        self.spent_ns[kind] = self.spent_ns.get(kind, 0) + spent_ns
        self.head_ns += head_ns
        if kind == "denoise":
            self.step_times_ns.append(spent_ns)

    def verified(self, drafted: int, accepted: int) -> None:
        """Add a draft, of which so many tokens were compared and agreed."""
        self.drafts += drafted > 0
        self.drafted_tokens += drafted
        self.accepted_tokens += accepted

    def step(self, block: int) -> None:
        """Add a denoising step that ended in a decision."""
        self.steps += 1
        self.steps_of_block[block] = self.steps_of_block.get(block, 0) + 1

    def stats(
        self,
        plan: Plan,
        backend: Backend,
        session: Forwards,
        pacer: Paced | None,
        *,
        confidences: NDArray[np.float64],
        forced_tokens: int,
        edited_tokens: int,
        tokens: int,
        clock: Callable[[], int],
    ) -> Stats:
        """The figures of the request, which ends now."""
        figures = {
            **self._counts(plan, session.forwards, tokens),
            **_of_the_cache(session),
            **self._times(),
            **_of_the_budget(pacer),
            "forced_tokens": forced_tokens,
            "edited_tokens": edited_tokens,
            "backend": backend.name,
            "isa": backend.isa,
            "threads": backend.threads,
            "peak_rss_bytes": peak_rss_bytes(),
            "mean_confidence": float(confidences.mean()) if len(confidences) else None,
            "min_confidence": float(confidences.min()) if len(confidences) else None,
        }
        # Last of all, so that hardly anything happens after the time that is reported.
        now_ns = clock()
        elapsed_ms = (now_ns - self.started_ns) / 1e6
        if pacer is not None:
            pacer.end_at(now_ns)
            figures["overshoot_ms"] = elapsed_ms - pacer.budget_ns / 1e6
        tokens_per_s = tokens / max(1e-9, elapsed_ms / 1e3)
        return Stats(elapsed_ms=elapsed_ms, tokens_per_s=tokens_per_s, **figures)

    def _counts(self, plan: Plan, forwards: int, tokens: int) -> dict[str, Any]:
        return {
            "sampler": plan.sampler_name,
            "sampler_parameters": _parameters(plan),
            "seed": plan.options.seed,
            "steps": self.steps,
            "steps_per_block": [self.steps_of_block.get(b, 0) for b in range(len(plan.blocks))],
            "nfe": forwards,
            "prompt_tokens": _num_given(plan),
            "reused_tokens": plan.num_reused,
            "tokens": tokens,
            "tokens_per_forward": tokens / max(1, forwards),
            "tokens_per_step": tokens / max(1, self.steps),
            "remasked_tokens": self.remasked_tokens,
            "drafts": self.drafts,
            "drafted_tokens": self.drafted_tokens,
            "accepted_tokens": self.accepted_tokens,
            "unverified_tokens": self.unverified_tokens,
        }

    def _times(self) -> dict[str, Any]:
        return {
            "ttft_ms": self._since_start(self.first_text_ns),
            "ttfd_ms": self._since_start(self.first_draft_ns),
            "t_first_block_ms": self._since_start(self.first_block_ns),
            "prefill_ms": self.spent_ns.get("prefill", 0) / 1e6,
            "denoise_ms": self.spent_ns.get("denoise", 0) / 1e6,
            "store_ms": self.spent_ns.get("store", 0) / 1e6,
            "refresh_ms": self.refresh_ns / 1e6,
            "head_ms": self.head_ns / 1e6,
            "step_ms_p50": self._step_ms(50),
            "step_ms_p99": self._step_ms(99),
        }

    def _since_start(self, instant_ns: int | None) -> float | None:
        return None if instant_ns is None else (instant_ns - self.started_ns) / 1e6

    def _step_ms(self, percentile: int) -> float | None:
        times = sorted(self.step_times_ns)
        return times[(len(times) - 1) * percentile // 100] / 1e6 if times else None


def _num_given(plan: Plan) -> int:
    canvas = plan.canvas
    return int(canvas.given.sum()) if canvas.is_form else canvas.output_start


def _of_the_cache(session: Forwards) -> dict[str, Any]:
    dual = session.dual
    return {
        "cache": session.cache,
        "refreshes": session.num_refreshes,
        "cache_top1_disagreement": None if dual is None else dual.top1_disagreement,
    }


def _of_the_budget(pacer: Paced | None) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "budget_ms": None,
        "overshoot_ms": None,
        "predicted_ms": None,
        "min_budget_ms": None,
        "cost_u": None,
        "cost_v": None,
        "cost_source": None,
    }
    if pacer is not None:
        predicted_ns = pacer.predicted_ns
        figures["budget_ms"] = pacer.budget_ns / 1e6
        figures["predicted_ms"] = None if predicted_ns is None else predicted_ns / 1e6
        figures["min_budget_ms"] = pacer.min_budget_ns / 1e6
        figures["cost_u"], figures["cost_v"] = pacer.rate
        figures["cost_source"] = pacer.cost_source
    return figures


def _parameters(plan: Plan) -> dict[str, Any]:
    """What the rule was given of what it uses."""
    uses = type(plan.sampler).uses
    return {name: value for name, value in asdict(plan.sampler_options).items() if name in uses}

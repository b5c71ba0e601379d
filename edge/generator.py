"""The loop: blocks, steps, commits. Joins engine and sampler and yields what happens."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.canvas import RowStats
from edge.config import ModelConfig
from edge.engine import Engine
from edge.request import Plan
from edge.result import Commit, Done, Draft, Result, Stats
from edge.samplers.base import BlockProgress, with_progress_floor
from edge.tokenizer import TextStream, Tokenizer


@dataclass
class _Tally:
    """Counts of a request so far; times in ns of the monotonic clock."""

    started_ns: int
    forwards: int = 0
    steps: int = 0
    denoise_ns: int = 0
    first_text_ns: int | None = None
    forced_tokens: int = 0
    confidences: list[float] = field(default_factory=list)


class Generation:
    """One request from its plan to its result."""

    def __init__(
        self,
        engine: Engine,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        plan: Plan,
        started_ns: int,
    ) -> None:
        self._engine = engine
        self._diffusion = config.diffusion
        self._tokenizer = tokenizer
        self._plan = plan
        self._canvas = plan.canvas
        self._options = plan.options
        self._tally = _Tally(started_ns)
        self._stream = TextStream(tokenizer)

    def run(self) -> Iterator[Draft | Commit | Done]:
        """Yield a Draft per step, a Commit whenever the answer's beginning grows, then Done."""
        status = "complete"
        for block in range(len(self._plan.blocks)):
            status = yield from self._run_block(block)
            if status != "complete":
                break
        answer = self._answer(status)
        yield from self._commit_event(answer, at_end=True)
        yield Done(self._result(answer, status))

    def _run_block(self, block: int) -> Generator[Draft | Commit, None, str]:
        start, stop = self._plan.blocks[block]
        num_holes = len(self._canvas.holes(start, stop))
        for step in range(self._num_iterations(block, num_holes)):
            holes = self._canvas.holes(start, stop)
            if not len(holes) and not self._runs_all_steps:
                break
            rows = self._forward(holes)
            if rows is None:
                return "cancelled"
            progress = BlockProgress(
                step, self._plan.steps_of_block[block], num_holes, num_holes - len(holes)
            )
            self._commit(rows, progress)
            yield self._draft(block, rows)
            yield from self._commit_event(self._canvas.committed_prefix())
            if self._eos_index() is not None:
                return "eos"
        return "complete"

    @property
    def _runs_all_steps(self) -> bool:
        return self._options.reference and self._plan.sampler.reference_runs_all_steps

    def _num_iterations(self, block: int, num_holes: int) -> int:
        """Every step commits at least one hole, so a block needs no more than it has holes."""
        return self._plan.steps_of_block[block] if self._runs_all_steps else num_holes

    def _forward(self, holes: NDArray[np.int32]) -> RowStats | None:
        begin = time.monotonic_ns()
        rows = self._engine.denoise(
            self._canvas,
            holes,
            draw=self._tally.forwards,
            seed=self._options.seed,
            temperature=self._options.temperature,
            mask_is_a_token=self._runs_all_steps,
            cancel=self._options.cancel,
        )
        self._tally.denoise_ns += time.monotonic_ns() - begin
        self._tally.forwards += 1
        return rows

    def _commit(self, rows: RowStats, progress: BlockProgress) -> None:
        sampler = self._plan.sampler
        chosen = sampler.choose(rows, progress)
        if not self._options.reference:
            ruled = len(chosen)
            chosen = with_progress_floor(chosen, sampler.rank(rows), progress)
            self._tally.forced_tokens += len(chosen) - ruled
        self._canvas.commit(
            rows.positions[chosen], rows.tokens[chosen], mask_is_a_token=self._runs_all_steps
        )
        self._tally.steps += 1
        self._tally.confidences.extend(rows.confidence[chosen].tolist())

    def _draft(self, block: int, rows: RowStats) -> Draft:
        canvas = self._canvas
        draft_ids = canvas.ids.copy()
        confidence = np.full(len(canvas), np.nan, np.float32)
        open_rows = ~canvas.committed[rows.positions]
        draft_ids[rows.positions[open_rows]] = rows.tokens[open_rows]
        confidence[rows.positions] = rows.confidence
        draft = Draft(
            step=self._tally.steps,
            nfe=self._tally.forwards,
            block=block,
            num_blocks=len(self._plan.blocks),
            output_start=canvas.output_start,
            ids=canvas.ids.copy(),
            draft_ids=draft_ids,
            committed=canvas.committed.copy(),
            confidence=confidence,
        )
        if self._options.on_step is not None:
            self._options.on_step(draft)
        return draft

    def _commit_event(self, prefix: NDArray[np.int32], *, at_end: bool = False) -> Iterator[Commit]:
        text, ids = self._stream.advance(self._before_eos(prefix), at_end=at_end)
        if not ids and not text:
            return
        if self._tally.first_text_ns is None:
            self._tally.first_text_ns = time.monotonic_ns()
        yield Commit(text, ids)

    def _eos_index(self) -> int | None:
        """Index of the first end token in the answer's committed beginning."""
        if self._options.reference or not self._diffusion.eos_ids:
            return None
        hits = np.flatnonzero(np.isin(self._canvas.committed_prefix(), self._diffusion.eos_ids))
        return int(hits[0]) if len(hits) else None

    def _before_eos(self, prefix: NDArray[np.int32]) -> NDArray[np.int32]:
        return prefix[: self._eos_index()]

    def _answer(self, status: str) -> NDArray[np.int32]:
        """A finished answer whole, a cancelled one as far as it is committed."""
        if status == "cancelled" and not self._diffusion.in_place:
            return self._canvas.committed_prefix()
        return self._before_eos(self._canvas.ids[self._canvas.output_start :])

    def _result(self, answer: NDArray[np.int32], status: str) -> Result:
        text = None if self._tokenizer is None else self._tokenizer.decode(answer)
        return Result(
            text=text,
            ids=answer.tolist(),
            status=status,
            complete=status != "cancelled",
            stats=self._stats(len(answer)),
        )

    def _stats(self, answer_length: int) -> Stats:
        tally = self._tally
        elapsed_ns = time.monotonic_ns() - tally.started_ns
        tokens = len(tally.confidences) if self._diffusion.in_place else answer_length
        first_ns = tally.first_text_ns
        return Stats(
            sampler=self._plan.sampler_name,
            seed=self._options.seed,
            budget_ms=None,
            elapsed_ms=elapsed_ns / 1e6,
            overshoot_ms=None,
            steps=tally.steps,
            nfe=tally.forwards,
            tokens=tokens,
            tokens_per_forward=tokens / max(1, tally.forwards),
            tokens_per_s=tokens / max(1e-9, elapsed_ns / 1e9),
            ttft_ms=None if first_ns is None else (first_ns - tally.started_ns) / 1e6,
            prefill_ms=0.0,
            denoise_ms=tally.denoise_ns / 1e6,
            forced_tokens=tally.forced_tokens,
            mean_confidence=float(np.mean(tally.confidences)) if tally.confidences else None,
            cache=self._engine.cache,
            backend=self._engine.backend.name,
            isa=self._engine.backend.isa,
            threads=self._engine.backend.threads,
            peak_rss_bytes=peak_rss_bytes(),
        )


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""A denoiser that says what the test wants, and everything a request needs around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray

from edge.backends.base import Cache, Mask, StepRequest
from edge.canvas import RowStats
from edge.config import ModelConfig, read_config
from edge.engine import Engine
from edge.formats.gguf_file import Header
from edge.generator import Generation
from edge.plan import Plan, plan_request
from edge.request import GenerateConfig
from edge.result import Commit, Done, Draft, Result
from edge.tokenizer import Tokenizer
from edge.vocabulary import byte_letters

MASK, EOS = 256, 257
METADATA: dict[str, Any] = {
    "general.architecture": "llada",
    "general.name": "scripted",
    "llada.context_length": 128,
    "llada.embedding_length": 8,
    "llada.block_count": 1,
    "llada.feed_forward_length": 8,
    "llada.attention.head_count": 2,
    "llada.attention.layer_norm_rms_epsilon": 1e-5,
    "llada.vocab_size": 264,
    "diffusion.block_length": 4,
    "diffusion.eos_ids": [EOS],
    "edge.num_tokens": 258,
    "tokenizer.ggml.mask_token_id": MASK,
}


@pytest.fixture
def metadata() -> dict[str, Any]:
    """What a model file says: 258 tokens (bytes, mask, end), 264 rows, context 128."""
    return METADATA.copy()


@pytest.fixture
def model_config() -> Callable[..., ModelConfig]:
    """``model_config(block_length=8)``: that file's configuration, with changes."""
    base = read_config(Header("scripted.gguf", METADATA, {}, 0, 0))

    def make(**changes: Any) -> ModelConfig:
        def own(part: Any) -> dict[str, Any]:
            return {f.name: changes.pop(f.name) for f in fields(part) if f.name in changes}

        denoiser = replace(base.denoiser, **own(base.denoiser))
        diffusion = replace(base.diffusion, **own(base.diffusion))
        return replace(base, denoiser=denoiser, diffusion=diffusion, **changes)

    return make


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """Token n is byte n; 256 and 257 are the special tokens for mask and end."""
    return _byte_tokenizer(range(256))


@pytest.fixture
def byte_tokenizer_without() -> Callable[..., Tokenizer]:
    """``byte_tokenizer_without(4)``: the same, with no token for some bytes."""
    return lambda *missing: _byte_tokenizer(set(range(256)) - set(missing))


def _byte_tokenizer(known: Iterable[int]) -> Tokenizer:
    letters = byte_letters()
    vocab = {letters.get(byte, f"{byte:#x}"): byte for byte in known}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<mask>", "<end>"])
    return Tokenizer(made)


@dataclass
class Scripted:
    """A backend whose candidates and confidences per position are given; keeps every request."""

    tokens: NDArray[np.int32]
    confidence: NDArray[np.float32]
    on_forward: Callable[[int], None] | None = None
    requests: list[StepRequest] = field(default_factory=list)
    name: str = "scripted"
    isa: str = "none"
    threads: int = 3

    def forward(self, request: StepRequest) -> RowStats | None:
        if self.on_forward is not None:
            self.on_forward(len(self.requests))
        self.requests.append(replace(request, ids=request.ids.copy()))  # the canvas goes on
        if request.cancel is not None and request.cancel.is_set():
            return None
        positions = request.positions[request.head_rows]
        confidence = self.confidence[positions]
        return RowStats(
            positions=positions,
            tokens=self.tokens[positions],
            confidence=confidence,
            margin=confidence,
            entropy=1 - confidence,
        )

    def logits(self, ids: NDArray[np.int32], mask: Mask) -> NDArray[np.float32]:
        raise AssertionError(f"nobody asks for logits of {ids} under {mask}")

    def new_cache(self, capacity: int) -> Cache:
        raise AssertionError(f"full attention needs no cache of {capacity}")

    def close(self) -> None:
        pass


@dataclass
class Run:
    """One scripted request, as it went."""

    events: list[Draft | Commit | Done]
    requests: list[StepRequest]
    plan: Plan

    @property
    def result(self) -> Result:
        last = self.events[-1]
        assert isinstance(last, Done)
        return last.result

    @property
    def drafts(self) -> list[Draft]:
        return [event for event in self.events if isinstance(event, Draft)]

    @property
    def commits(self) -> list[Commit]:
        return [event for event in self.events if isinstance(event, Commit)]


@pytest.fixture
def scripted(model_config: Callable[..., ModelConfig]) -> Callable[..., Run]:
    """``scripted(prompt, answer, confidence, tokenizer=None, config={}, **options)``.

    The denoiser predicts ``answer`` after the prompt (or, in place, on the whole canvas).
    """

    def run(
        prompt: list[int],
        answer: Any,
        confidence: Any = None,
        *,
        tokenizer: Tokenizer | None = None,
        config: dict[str, Any] | None = None,
        on_forward: Callable[[int], None] | None = None,
        **options: Any,
    ) -> Run:
        made = model_config(**(config or {}))
        before = [] if made.diffusion.in_place else prompt
        tokens = np.array([*before, *answer], np.int32)
        sure = np.linspace(0.5, 0.6, len(answer)) if confidence is None else confidence
        all_sure = np.array([*[0.0] * len(before), *sure], np.float32)
        if not made.diffusion.in_place:
            options = {"max_tokens": len(answer), **options}
        backend = Scripted(tokens, all_sure, on_forward)
        plan = plan_request(np.array(prompt, np.int32), GenerateConfig.of(options), made)
        engine = Engine(backend, made)
        events = Generation(engine, tokenizer, plan, time.monotonic_ns()).run()
        return Run(list(events), backend.requests, plan)

    return run


@pytest.fixture
def scripted_backend() -> type[Scripted]:
    """``scripted_backend(tokens, confidence, on_forward)``: that backend by itself."""
    return Scripted


@pytest.fixture
def planned(model_config: Callable[..., ModelConfig]) -> Callable[..., Plan]:
    """``planned(prompt, config={}, **options)``: the plan of such a request."""

    def make(prompt: Any, config: dict[str, Any] | None = None, **options: Any) -> Plan:
        made = model_config(**(config or {}))
        return plan_request(np.asarray(prompt, np.int32), GenerateConfig.of(options), made)

    return make


@pytest.fixture
def rows() -> Callable[..., RowStats]:
    """``rows([0.3, 0.9])``: statistics of as many rows with these confidences."""

    def make(confidence: Any) -> RowStats:
        values = np.asarray(confidence, np.float32)
        places = np.arange(len(values), dtype=np.int32)
        return RowStats(places, places, values, values, 1 - values)

    return make


@pytest.fixture(scope="module")
def llada(golden: Callable[[str], Path], converted: Callable[..., Path]) -> Path:
    """A model file without a tokenizer: 250 tokens, 256 rows, context 512."""
    return converted(golden("llada"), "q8_0")

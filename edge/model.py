"""``load`` and what it returns: a thin join of file, tokenizer, engine, loop and task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from reprlib import repr as shown
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import backends, machine, profile, samplers, tasks
from edge.choices import choose
from edge.conversation import Conversation
from edge.costs import StepCosts
from edge.engine import Engine
from edge.errors import (
    ContextLengthError,
    RequestError,
    UnsupportedModelError,
)
from edge.filling import Form, check_options, run_filling
from edge.formats import keys
from edge.formats.gguf_file import header_of, open_model
from edge.generator import Generation
from edge.holes import Hole
from edge.in_order import InOrder
from edge.info import PathOrName, info_of, resolve
from edge.plan import DEFAULT_MAX_TOKENS, plan_canvas, plan_request
from edge.prefix import KeptPrefix
from edge.prompting import Prompting
from edge.request import GenerateConfig
from edge.result import Commit, Done, Draft, Result
from edge.timing import Timing


def load(
    path: PathOrName | None = None,
    *,
    threads: int | None = None,
    backend: str = "native",
    activations: str = "int8",
    kv: str = "auto",
    pack_cache: bool = True,
) -> Model:
    """Open a model file or an embedded denoiser by name (None: the default one).

    ``threads`` defaults to the big cores. ``activations`` "int8" quantizes what enters the
    quantized layers, "f32" does not (slower, closer to the float model); float weights always
    meet float activations. ``kv`` says how keys and values are kept and attended: "f32", "bf16"
    or "int8", each quicker and coarser than the one before; "auto" is bf16 where weights and
    activations are quantized, else f32. ``pack_cache`` lets a large model's packed weights
    be kept in the cache folder, which makes the next load quick. Raises ModelNotFoundError,
    ModelFileError, UnsupportedModelError, RequestError, MemoryError.
    """
    return Model(
        resolve(path),
        threads=threads,
        backend=backend,
        activations=activations,
        kv=kv,
        pack_cache=pack_cache,
    )


class Model:
    """A loaded denoiser. Use it as a context manager or call ``close``.

    Several threads may call one model; their denoising steps take turns. ``close`` waits for the
    step in flight, after which every call raises ModelClosedError.
    """

    def __init__(
        self,
        path: str,
        *,
        threads: int | None,
        backend: str,
        activations: str,
        kv: str,
        pack_cache: bool,
    ) -> None:
        file = open_model(path)
        header = header_of(path, file)
        self.info = info_of(header)
        self.config = self.info.config
        self._prompting = Prompting(header, self.config)
        self.tokenizer = self._prompting.tokenizer
        self.task = tasks.find(self.config.task)
        _check_sampler(path, self.config.diffusion.sampler)
        self.activations = activations
        make = backends.find(backend)
        self._backend = make(
            path,
            file,
            self.config.denoiser,
            threads=threads,
            activations=activations,
            kv=kv,
            pack_cache=pack_cache,
        )
        self._engine = Engine(self._backend, self.config)
        self._tensors = header.tensors
        self._timing = Timing(
            self.config,
            self._backend.threads,
            self._identity,
            stoppable=self._backend.stoppable,
        )

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def backend(self) -> str:
        """Name of what executes the forwards."""
        return self._backend.name

    @property
    def kv(self) -> str:
        """How keys and values are kept: f32, bf16 or int8."""
        return self._backend.kv

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._backend.isa

    @property
    def threads(self) -> int:
        """The number of threads in use."""
        return self._backend.threads

    def close(self) -> None:
        """Free the weights. Safe at any time and more than once.

        What requests with a latency budget taught about this device is stored.
        """
        self._backend.close()
        self._timing.save()

    @property
    def costs(self) -> StepCosts:
        """What a step costs here, as latency budgets are planned with; read on first use."""
        return self._timing.costs

    def warm_up(self) -> None:
        """Read the timing profile and run one forward of a block, which no request then pays for.

        The first forward of a process is the slowest: threads, caches and weights are cold. Call
        this after loading where the first latency budget is a tight one; ``edge run`` does.
        """
        _ = self.costs
        profile.warm_up(self._backend, self.config)

    def calibrate(self, seconds: float = profile.SECONDS) -> tuple[StepCosts, Path]:
        """Measure what a step costs on this device, use it from now on and store it.

        Return the costs and the file they are in. Takes about ``seconds``, longer where a few
        forwards of the model do. Without it the first requests with a budget teach the same.
        """
        costs = profile.calibrate(self._backend, self.config, seconds)
        self._timing.use(costs)
        return costs, profile.write(self._identity(), costs)

    def _identity(self) -> profile.Identity:
        return profile.Identity(
            model=profile.hash_of_shapes(self.config.denoiser, self._tensors),
            cpu=machine.cpu_name(),
            threads=self._backend.threads,
            isa=self._backend.isa,
            backend=self._backend.name,
            activations=self.activations,
            kv=self.kv,
            engine=profile.engine_hash(),
        )

    def generate(self, prompt: str, *, raw: bool = False, **options: Any) -> Result:
        """Answer a prompt; the options are the fields of ``GenerateConfig``.

        The prompt is one user turn of the file's chat template, if it has one; with ``raw`` it is
        the text that the answer continues. Raises RequestError, ContextLengthError, NumericError,
        ModelClosedError, and UnsupportedModelError for a model without a tokenizer.
        """
        return _last(self.stream(prompt, raw=raw, **options))

    def stream(
        self, prompt: str, *, raw: bool = False, **options: Any
    ) -> Iterator[Draft | Commit | Done]:
        """Answer a prompt step by step. Options and errors as for ``generate``.

        A prompt or option that cannot be served raises here, not at the first event.
        """
        started_ns = time.monotonic_ns()
        if self.task is None:
            return self._run(self._prompting.encode(prompt, raw=raw), options, started_ns)
        text = self.task.check_prompt(prompt)
        ids = self._prompting.encode(text, raw=True)
        return self._run(ids, options, started_ns, partial(self.task.verify, text))

    def chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Result:
        """Answer a conversation of messages ``{"role": ..., "content": ...}``.

        Options and errors as for ``generate``; UnsupportedModelError also for a model without a
        chat template.
        """
        started_ns = time.monotonic_ns()
        return _last(self._run(self._prompting.encode_chat(messages), options, started_ns))

    def conversation(
        self, system: str | None = None, *, on_full: str = "error", **options: Any
    ) -> Conversation:
        """Begin a conversation; the options are those of every turn, as for ``generate``.

        Where the next turn exceeds the model's context, ``on_full`` "error" raises
        ContextLengthError and "drop_oldest" forgets the oldest turns. An answer is given room for
        ``max_tokens`` (128, at most half of the context). Raises RequestError, and
        UnsupportedModelError for a model without tokenizer or chat template.
        """
        self._prompting.require_tokenizer()
        self._prompting.require_template()
        room = min(DEFAULT_MAX_TOKENS, max(1, self.config.denoiser.context_length // 2))
        options = {"max_tokens": room, **options}
        GenerateConfig.of(options)
        return Conversation(self._answer, system, on_full, options)

    def fill(
        self, pieces: Sequence[str | Hole], *, choices: Sequence[str] | None = None, **options: Any
    ) -> Result:
        """Fill the holes between texts, which stay as they are; the result's ``holes`` tell them.

        With ``choices`` each hole becomes the likeliest of these texts (``edge/choices.py`` says
        how). Otherwise a hole may end up shorter than its size: where the model puts an end or
        padding token. The options are the fields of ``GenerateConfig``, without ``max_tokens`` and
        ``reference``; with choices only budget, seed, ``on_step`` and ``cancel``. Raises
        RequestError, ContextLengthError, UnsupportedModelError (no tokenizer, or what follows a
        hole is out of the sight of a model that attends in blocks), BudgetError, NumericError,
        ModelClosedError.
        """
        return _last(self.stream_fill(pieces, choices=choices, **options))

    def stream_fill(
        self, pieces: Sequence[str | Hole], *, choices: Sequence[str] | None = None, **options: Any
    ) -> Iterator[Draft | Commit | Done]:
        """Fill holes step by step. Options and errors as for ``fill``, raised here."""
        started_ns = time.monotonic_ns()
        checked = GenerateConfig.of(options)
        tokenizer, ends = self._prompting.require_tokenizer(), self._prompting.end_ids
        form = Form(pieces, tokenizer, self.config, ends, checked.block_length)
        if choices is not None:
            return choose(self._engine, form, choices, checked, started_ns, lambda: self.costs)
        canvas, _ = form.canvas()
        check_options(checked)
        plan = plan_canvas(canvas, checked, self.config)
        generation = Generation(self._engine, None, plan, started_ns, self._timing)
        return run_filling(generation, form, canvas)

    def generate_ids(
        self, prompt_ids: Sequence[int] | NDArray[np.integer[Any]], **options: Any
    ) -> Result:
        """Answer ids with ids; needs no tokenizer. Options and errors as for ``generate``."""
        return _last(self.stream_ids(prompt_ids, **options))

    def stream_ids(
        self, prompt_ids: Sequence[int] | NDArray[np.integer[Any]], **options: Any
    ) -> Iterator[Draft | Commit | Done]:
        """Answer ids step by step; needs no tokenizer. Options and errors as for ``generate``."""
        return self._run(self._checked_ids(prompt_ids), options, time.monotonic_ns())

    def logits(
        self, ids: Sequence[int] | NDArray[np.integer[Any]], context_length: int = 0
    ) -> NDArray[np.float32]:
        """Return float32 [len(ids), vocab] of one forward without any cache.

        The attention is the model's own: under full attention every row sees every row; a block
        model's blocks are aligned as the file says, absolutely or to the end of the first
        ``context_length`` ids; with causal context those ids are causal and the rest is one
        bidirectional canvas. Row i is what the network put at position i, never shifted.
        """
        checked = self._checked_ids(ids)
        if not 0 <= context_length <= len(checked):
            raise RequestError(
                f"context_length is {context_length}, but there are {len(checked)} ids",
                hint="give a number from 0 to the number of ids",
            )
        if not 1 <= len(checked) <= self.config.denoiser.context_length:
            raise ContextLengthError(
                f"{len(checked)} ids are given",
                hint=f"give 1 to {self.config.denoiser.context_length}, the model's context",
            )
        return self._engine.logits(checked, context_length)

    def _run(
        self,
        prompt: NDArray[np.int32],
        options: dict[str, Any],
        started_ns: int,
        verify: Callable[[str], bool] | None = None,
        kept: KeptPrefix | None = None,
    ) -> Iterator[Draft | Commit | Done]:
        plan = plan_request(prompt, GenerateConfig.of(options), self.config)
        if kept is not None:
            ids, start = plan.canvas.ids, plan.canvas.output_start
            mask, stop = self._engine.mask(start), plan.blocks[0].origin
            num_reused = kept.num_reusable(ids, stop, mask, self.config.diffusion)
            plan = replace(plan, num_reused=num_reused)
        loop = InOrder if samplers.decodes_in_order(plan.sampler_name) else Generation
        return loop(
            self._engine, self.tokenizer, plan, started_ns, self._timing, verify, kept=kept
        ).run()

    def _answer(
        self,
        messages: Sequence[Mapping[str, str]],
        kept: KeptPrefix,
        options: dict[str, Any],
        started_ns: int,
    ) -> Iterator[Draft | Commit | Done]:
        return self._run(self._prompting.encode_chat(messages), options, started_ns, kept=kept)

    def _checked_ids(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        try:
            array = np.asarray(ids)
        except ValueError:  # rows of different lengths
            array = np.empty((0, 0))
        vocab_size = self.config.denoiser.vocab_size
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise RequestError("the prompt is no list of token ids", hint="give whole numbers")
        if array.size and not 0 <= array.min() <= array.max() < vocab_size:
            raise RequestError(
                f"a token id of {array.min() if array.min() < 0 else array.max()} is given",
                hint=f"give ids from 0 to {vocab_size - 1}",
            )
        return array.astype(np.int32)


def _check_sampler(path: str, name: str) -> None:
    if name not in samplers.names():
        raise UnsupportedModelError(
            f"key '{keys.SAMPLER}' is {shown(name)}",
            path=path,
            hint=f"this version knows {', '.join(samplers.names())}",
        )


def _last(events: Iterator[Draft | Commit | Done]) -> Result:
    for event in events:
        if isinstance(event, Done):
            return event.result
    raise AssertionError("a generation always ends with Done")

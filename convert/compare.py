"""How much of one model file's mind is left in others: same canvases, same questions.

The first file is the reference. At each mask ratio the masked positions of the same canvases are
compared: KL(reference || other), whether the likeliest token is the same, and what would be
committed above the threshold. Then every file answers the same prompts with its own defaults.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convert.canvases import (
    Example,
    NoisyCanvas,
    add_noise,
    clean_examples,
    prompt_of,
)
from convert.commits import bound_for, precision_above, precision_within, threshold_for
from convert.divergence import kl_nats, log_softmax
from convert.progress import Progress, silent
from edge.errors import RequestError

if TYPE_CHECKING:
    import edge
    from edge.config import DiffusionConfig

MASK_RATIOS = tuple(n / 10 for n in range(1, 11))
_RESAMPLES = 1000


@dataclass(frozen=True)
class AtRatio:
    """Means over the masked positions of all canvases with that share of masks."""

    mask_ratio: float
    kl_nats: float
    top1_agreement: float


@dataclass(frozen=True)
class Commits:
    """What a step commits above `threshold`, over all canvases.

    `precision` is the mean probability under the reference of what is committed, None where
    nothing is. At `recalibrated_threshold` it is that of the reference at its own threshold; None
    where no threshold gives that. `recalibrated_entropy_bound` is the same for the rule of
    bounded entropy, from the reference's own bound, None likewise.
    """

    threshold: float
    share: float
    precision: float | None
    recalibrated_threshold: float | None
    recalibrated_entropy_bound: float | None


@dataclass(frozen=True)
class Answers:
    """Answers to the same prompts with each file's defaults; `score` is the share of right ones,
    `score_change` what the file has more than the reference, in 95 % bootstrap bounds over pairs.
    """

    ids_agreement: float
    same_answers: float
    mean_nfe: float
    score: float | None
    score_change_low: float | None
    score_change_high: float | None


@dataclass(frozen=True)
class FileReport:
    """A file against the reference; `top1_agreement_low` is the lower 95 % bootstrap bound,
    `forward_ms` the median time of a forward with all its logits. `answers` is None where none
    were asked for.
    """

    file: str
    type: str
    size_bytes: int
    bits_per_weight: float
    kl_nats: float
    top1_agreement: float
    top1_agreement_low: float
    at_ratios: tuple[AtRatio, ...]
    forward_ms: float = field(compare=False)
    commits: Commits
    answers: Answers | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns; `files[0]` is the reference against itself."""

    num_examples: int
    num_positions: int
    seed: int
    files: tuple[FileReport, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison as one JSON object."""
        return {"schema": 1, **asdict(self)}


def compare(
    reference: str | PathLike[str],
    *others: str | PathLike[str],
    examples: str | PathLike[str] | None = None,
    count: int,
    seed: int = 0,
    answers: bool = True,
    steps: int | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare model files of one network with the first of them.

    `examples` is a text file: a line is a text, or a prompt, a tab and its answer; of it, `count`
    lines are used. Without, they are of the package's own text, or what the reference answers to
    nothing. With `answers` every file answers the same prompts, in `steps` steps, by
    default as the file says. All files stay loaded; logits of
    one canvas, [length, vocab], are held per file.

    Raises RequestError for files that do not hold the same network and for unusable examples,
    and what `edge.load` raises.
    """
    import edge

    if count < 1 or not others:
        raise RequestError("nothing is to be compared", hint="give two files and a count from 1")
    with ExitStack() as stack:
        paths = [fspath(path) for path in (reference, *others)]
        models = [stack.enter_context(edge.load(path, threads=threads)) for path in paths]
        _require_one_network(paths, models)
        path = None if examples is None else Path(examples)
        chosen = clean_examples(models[0], path, count, seed)
        return _compare(paths, models, chosen, seed, _Asking(answers, steps), progress)


def _compare(
    paths: Sequence[str],
    models: Sequence[edge.Model],
    examples: Sequence[Example],
    seed: int,
    asking: _Asking,
    progress: Progress,
) -> Comparison:
    tallies = [_Tally() for _ in models]
    total = len(examples) * len(MASK_RATIOS)
    for done, (number, canvas) in enumerate(_canvases(models[0], examples, seed)):
        progress("forwards", done, total)
        _look(models, tallies, canvas, number)
    for done, example in enumerate(examples if asking.answers else ()):
        progress("answers", done, len(examples))
        prompt = prompt_of(example, models[0].config, (seed, done))
        _ask(models, tallies, prompt, example, asking)
    return Comparison(
        num_examples=len(examples),
        num_positions=len(tallies[0].joined("kl")),
        seed=seed,
        files=tuple(
            _report(path, model, tally, tallies[0], seed)
            for path, model, tally in zip(paths, models, tallies, strict=True)
        ),
    )


@dataclass(frozen=True)
class _Asking:
    answers: bool
    steps: int | None


@dataclass
class _Tally:
    """What is known of one file: per canvas an array over its masked positions."""

    kl: list[NDArray[np.float64]] = field(default_factory=list)
    same: list[NDArray[np.bool_]] = field(default_factory=list)
    confidence: list[NDArray[np.float64]] = field(default_factory=list)
    under_reference: list[NDArray[np.float64]] = field(default_factory=list)
    entropy: list[NDArray[np.float64]] = field(default_factory=list)
    forward_ms: list[float] = field(default_factory=list)
    example: list[int] = field(default_factory=list)  # of each canvas
    agreeing_ids: list[float] = field(default_factory=list)  # of each answer
    nfe: list[int] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    def joined(self, name: str, part: slice = slice(None)) -> NDArray[Any]:
        """One array of the canvases of `part`."""
        return np.concatenate(getattr(self, name)[part])

    def commits(self, diffusion: DiffusionConfig, reference: _Tally) -> Commits:
        """What the file's own rule commits, and the parameter that is as sound as the reference's
        own."""
        confidence, probability = self.joined("confidence"), self.joined("under_reference")
        threshold = diffusion.threshold
        wanted = precision_above(
            reference.joined("confidence"), reference.joined("under_reference"), threshold
        )
        sound = partial(precision_within, bound=diffusion.entropy_bound)
        return Commits(
            threshold=threshold,
            share=float((confidence > threshold).mean()),
            precision=precision_above(confidence, probability, threshold),
            recalibrated_threshold=threshold_for(confidence, probability, wanted),
            recalibrated_entropy_bound=bound_for(
                self.entropy,
                self.under_reference,
                diffusion.entropy_bound,
                sound(reference.entropy, reference.under_reference),
            ),
        )

    def lower_bound(self, seed: int) -> float:
        """Of the agreement, with whole examples drawn anew."""
        num_examples = max(self.example) + 1
        sums = np.zeros((num_examples, 2))
        for number, same in zip(self.example, self.same, strict=True):
            sums[number] += same.sum(), len(same)
        drawn = np.random.default_rng(seed).integers(num_examples, size=(_RESAMPLES, num_examples))
        same, of = sums[drawn].sum(axis=1).T
        return float(np.quantile(same / of, 0.025))


def _canvases(
    model: edge.Model, examples: Sequence[Example], seed: int
) -> Iterator[tuple[int, NoisyCanvas]]:
    """The number of each example with its canvases, ratio after ratio."""
    for step, ratio in enumerate(MASK_RATIOS):
        for number, example in enumerate(examples):
            random = np.random.default_rng((seed, step, number))
            yield number, add_noise(example, ratio, model.config, random)


def _look(
    models: Sequence[edge.Model], tallies: Sequence[_Tally], canvas: NoisyCanvas, number: int
) -> None:
    reference, best = None, None
    for model, tally in zip(models, tallies, strict=True):
        begin_ns = time.perf_counter_ns()
        logits = model.logits(canvas.ids, canvas.context_length)[canvas.rows]
        tally.forward_ms.append((time.perf_counter_ns() - begin_ns) / 1e6)
        says = log_softmax(logits[:, : model.config.num_tokens])
        allowed = says.copy()
        allowed[:, model.config.diffusion.mask_token_id] = -math.inf
        top = allowed.argmax(axis=1)
        if reference is None or best is None:
            reference, best = says, top
        lines = np.arange(len(top))
        tally.kl.append(kl_nats(reference, says))
        tally.same.append(top == best)
        tally.confidence.append(np.exp(says[lines, top]))
        tally.under_reference.append(np.exp(reference[lines, top]))
        tally.entropy.append(-(np.exp(says) * says).sum(axis=1))
        tally.example.append(number)


def _ask(
    models: Sequence[edge.Model],
    tallies: Sequence[_Tally],
    prompt: NDArray[np.int32],
    example: Example,
    asking: _Asking,
) -> None:
    right = example.ids
    options = {} if asking.steps is None else {"steps": asking.steps}
    if not models[0].config.diffusion.in_place:
        right = right[len(prompt) :]
        options["max_tokens"] = len(right)
    results = [model.generate_ids(prompt, **options) for model in models]
    first = results[0].ids
    for result, tally in zip(results, tallies, strict=True):
        longest = max(len(first), len(result.ids), 1)
        equal = sum(a == b for a, b in zip(first, result.ids, strict=False))
        tally.agreeing_ids.append(equal / longest if first or result.ids else 1.0)
        tally.nfe.append(result.stats.nfe)
        if example.has_answer:
            tally.right.append(result.ids == right.tolist())


def _report(
    path: str, model: edge.Model, tally: _Tally, reference: _Tally, seed: int
) -> FileReport:
    info = model.info
    per_ratio = len(tally.kl) // len(MASK_RATIOS)
    parts = [slice(n * per_ratio, (n + 1) * per_ratio) for n in range(len(MASK_RATIOS))]
    return FileReport(
        file=path,
        type=info.main_type,
        size_bytes=info.size_bytes,
        bits_per_weight=info.bits_per_weight,
        kl_nats=float(tally.joined("kl").mean()),
        top1_agreement=float(tally.joined("same").mean()),
        top1_agreement_low=tally.lower_bound(seed),
        at_ratios=tuple(
            AtRatio(
                ratio,
                float(tally.joined("kl", part).mean()),
                float(tally.joined("same", part).mean()),
            )
            for ratio, part in zip(MASK_RATIOS, parts, strict=True)
        ),
        forward_ms=float(np.median(tally.forward_ms)),
        commits=tally.commits(model.config.diffusion, reference),
        answers=_answers(tally, reference, seed) if tally.nfe else None,
    )


def _answers(tally: _Tally, reference: _Tally, seed: int) -> Answers:
    low, high = _change_bounds(tally.right, reference.right, seed)
    return Answers(
        ids_agreement=float(np.mean(tally.agreeing_ids)),
        same_answers=float(np.mean(np.equal(tally.agreeing_ids, 1.0))),
        mean_nfe=float(np.mean(tally.nfe)),
        score=float(np.mean(tally.right)) if tally.right else None,
        score_change_low=low,
        score_change_high=high,
    )


def _change_bounds(
    right: Sequence[bool], reference: Sequence[bool], seed: int
) -> tuple[float | None, float | None]:
    """Of the mean change, with whole pairs drawn anew."""
    if not right:
        return None, None
    changes = np.subtract(right, reference, dtype=np.float64)
    random = np.random.default_rng(seed)
    means = [random.choice(changes, len(changes)).mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _require_one_network(paths: Sequence[str], models: Sequence[edge.Model]) -> None:
    first = models[0].config
    for path, model in zip(paths, models, strict=True):
        for what, wanted, found in (
            ("tokens", first.num_tokens, model.config.num_tokens),
            ("layers", first.denoiser.num_layers, model.config.denoiser.num_layers),
            ("hidden size", first.denoiser.hidden_size, model.config.denoiser.hidden_size),
            ("mask token", first.diffusion.mask_token_id, model.config.diffusion.mask_token_id),
            ("attention", first.diffusion.attention, model.config.diffusion.attention),
            ("shift", first.diffusion.shift_logits, model.config.diffusion.shift_logits),
            ("canvas", first.diffusion.canvas, model.config.diffusion.canvas),
        ):
            if wanted != found:
                raise RequestError(
                    f"{what}: {found}, {paths[0]} has {wanted}",
                    path=path,
                    hint="compare files of the same network",
                )

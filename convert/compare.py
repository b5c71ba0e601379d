"""How much of one model file's mind is left in others: same canvases, same questions.

The first file is the reference. At each mask ratio the masked positions of the same canvases are
compared: KL(reference || other), whether the likeliest token is the same, and what would be
committed above the threshold. Then every file answers the same prompts with its own defaults.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convert.canvases import Example, NoisyCanvas, add_noise, own_examples, read_examples
from convert.divergence import kl_nats, log_softmax
from convert.progress import Progress, silent
from edge.errors import RequestError

if TYPE_CHECKING:
    import edge

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
    where no threshold gives that.
    """

    threshold: float
    share: float
    precision: float | None
    recalibrated_threshold: float | None


@dataclass(frozen=True)
class Answers:
    """Answers to the same prompts with each file's defaults; `score` is the share of right ones."""

    ids_agreement: float
    same_answers: float
    mean_nfe: float
    score: float | None


@dataclass(frozen=True)
class FileReport:
    """A file against the reference; `top1_agreement_low` is the lower 95 % bootstrap bound."""

    file: str
    type: str
    size_bytes: int
    bits_per_weight: float
    kl_nats: float
    top1_agreement: float
    top1_agreement_low: float
    at_ratios: tuple[AtRatio, ...]
    commits: Commits
    answers: Answers


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
    threads: int | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare model files of one network with the first of them.

    `examples` is a text file: a line is a text, or a prompt, a tab and its answer; of it, `count`
    lines are used. Without, the reference draws `count` answers from nothing. All files stay
    loaded; logits of one canvas, [length, vocab], are held per file.

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
        if examples is None:
            chosen = list(own_examples(models[0], count, seed))
        else:
            chosen = list(islice(read_examples(Path(examples), models[0]), count))
        if not chosen:
            raise RequestError("there are no examples", path=examples, hint="give a text per line")
        return _compare(paths, models, chosen, seed, progress)


def _compare(
    paths: Sequence[str],
    models: Sequence[edge.Model],
    examples: Sequence[Example],
    seed: int,
    progress: Progress,
) -> Comparison:
    tallies = [_Tally() for _ in models]
    total = len(examples) * len(MASK_RATIOS)
    for done, (number, canvas) in enumerate(_canvases(models[0], examples, seed)):
        progress("forwards", done, total)
        _look(models, tallies, canvas, number)
    prompts = [_prompt(each, models[0], (seed, number)) for number, each in enumerate(examples)]
    for done, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
        progress("answers", done, len(prompts))
        _ask(models, tallies, prompt, example)
    threshold = models[0].config.diffusion.threshold
    wanted = tallies[0].precision_above(threshold)
    return Comparison(
        num_examples=len(examples),
        num_positions=len(tallies[0].joined("kl")),
        seed=seed,
        files=tuple(
            _report(path, model, tally, wanted, seed)
            for path, model, tally in zip(paths, models, tallies, strict=True)
        ),
    )


@dataclass
class _Tally:
    """What is known of one file: per canvas an array over its masked positions."""

    kl: list[NDArray[np.float64]] = field(default_factory=list)
    same: list[NDArray[np.bool_]] = field(default_factory=list)
    confidence: list[NDArray[np.float64]] = field(default_factory=list)
    under_reference: list[NDArray[np.float64]] = field(default_factory=list)
    example: list[int] = field(default_factory=list)  # of each canvas
    agreeing_ids: list[float] = field(default_factory=list)  # of each answer
    nfe: list[int] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    def joined(self, name: str, part: slice = slice(None)) -> NDArray[Any]:
        """One array of the canvases of `part`."""
        return np.concatenate(getattr(self, name)[part])

    def precision_above(self, threshold: float) -> float | None:
        """Mean probability under the reference of what has more confidence than that."""
        sure = self.joined("confidence") > threshold
        return float(self.joined("under_reference")[sure].mean()) if sure.any() else None

    def threshold_for(self, precision: float | None) -> float | None:
        """The lowest threshold at which what is committed has that precision."""
        if precision is None:
            return None
        order = np.argsort(-self.joined("confidence"), kind="stable")
        confidence = self.joined("confidence")[order]
        means = np.cumsum(self.joined("under_reference")[order]) / np.arange(1, len(order) + 1)
        # what is committed at a threshold is a beginning of this order, equals together
        ends = np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)
        good = ends[means[ends] >= precision]
        if not len(good):
            return None
        last = good[-1]
        return float(confidence[last + 1]) if last + 1 < len(confidence) else 0.0

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
        logits = model.logits(canvas.ids, canvas.context_length)[canvas.rows]
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
        tally.example.append(number)


def _prompt(example: Example, model: edge.Model, seed: tuple[int, int]) -> NDArray[np.int32]:
    """What is asked: the example's holes; without a prompt half of the canvas, or what follows
    its first half.
    """
    diffusion = model.config.diffusion
    ids, holes = example.ids.copy(), example.open
    if not diffusion.in_place:
        return np.asarray(ids[: example.context_length or len(ids) // 2])
    if not example.has_answer:
        random = np.random.default_rng(seed)
        holes = random.permutation(holes)[: max(1, len(holes) // 2)]
    ids[holes] = diffusion.mask_token_id
    return np.asarray(ids)


def _ask(
    models: Sequence[edge.Model],
    tallies: Sequence[_Tally],
    prompt: NDArray[np.int32],
    example: Example,
) -> None:
    right, options = example.ids, {}
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
    path: str, model: edge.Model, tally: _Tally, wanted: float | None, seed: int
) -> FileReport:
    info = model.info
    threshold = model.config.diffusion.threshold
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
        commits=Commits(
            threshold=threshold,
            share=float((tally.joined("confidence") > threshold).mean()),
            precision=tally.precision_above(threshold),
            recalibrated_threshold=tally.threshold_for(wanted),
        ),
        answers=Answers(
            ids_agreement=float(np.mean(tally.agreeing_ids)),
            same_answers=float(np.mean(np.equal(tally.agreeing_ids, 1.0))),
            mean_nfe=float(np.mean(tally.nfe)),
            score=float(np.mean(tally.right)) if tally.right else None,
        ),
    )


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

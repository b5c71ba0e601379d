"""Canvases at noise levels: what a denoiser meets on its way from masks to text.

Clean texts come from a file or are a model's own answers. For a fully bidirectional denoiser any
open position may be masked; one that decodes block by block gets one block with masks and all
before it clean, as when it decodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import RequestError
from edge.samplers import decodes_in_order

if TYPE_CHECKING:
    import edge
    from edge.config import ModelConfig

TEXT = Path(__file__).with_name("calibration_text.txt")
_LARGEST_FILE_BYTES = 64 << 20
_OWN_LENGTH = 64  # tokens of an answer to an empty prompt


@dataclass(frozen=True)
class Example:
    """A clean canvas `ids`; positions in `open` may be masked, the first `context_length` ids are
    a prompt. `has_answer` is False where nothing says that the text is right.
    """

    ids: NDArray[np.int32]
    open: NDArray[np.intp]
    context_length: int
    has_answer: bool


@dataclass(frozen=True)
class NoisyCanvas:
    """`ids` with masks at `masked`, whose candidates are in `rows` of the logits."""

    ids: NDArray[np.int32]
    masked: NDArray[np.intp]
    rows: NDArray[np.intp]
    context_length: int


def read_examples(path: Path, model: edge.Model) -> Iterator[Example]:
    """The examples of a text file: a line is a text, or a prompt, a tab and its answer.

    Texts are tokenized as they are, without a chat template. Raises RequestError naming the line,
    UnsupportedModelError for a model without a tokenizer, OSError.
    """
    if path.stat().st_size > _LARGEST_FILE_BYTES:
        reason = f"the examples take more than {_LARGEST_FILE_BYTES >> 20} MiB"
        raise RequestError(reason, path=path, hint="give fewer")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        reason = f"the examples are not UTF-8 from byte {error.start} on"
        raise RequestError(reason, path=path, hint="save them as UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        prompt, tab, answer = line.partition("\t")
        try:
            example = _pair(model, prompt, answer) if tab else _text(model, line)
            _check(example, model.config)
        except _Unusable as reason:
            what = f"line {number} {reason}"
            raise RequestError(what, path=path, hint="correct or remove the line") from None
        yield example


def clean_examples(
    model: edge.Model, path: Path | None, count: int, seed: int, steps: int | None = None
) -> list[Example]:
    """At most `count` examples of the file; without one of the package's own text, or what the
    model answers to nothing, in `steps` steps, where that cannot be: on a puzzle's canvas, without
    a tokenizer.

    Raises RequestError for unusable examples, OSError.
    """
    if path is None and draws_its_own(model):
        return list(own_examples(model, count, seed, steps))
    examples = list(islice(read_examples(path or TEXT, model), count))
    if not examples:
        raise RequestError("there are no examples", path=path, hint="give a text per line")
    return examples


def draws_its_own(model: edge.Model) -> bool:
    """Whether the package's own text says nothing to the model."""
    return model.tokenizer is None or model.config.diffusion.in_place


def own_examples(
    model: edge.Model, count: int, seed: int, steps: int | None = None
) -> Iterator[Example]:
    """Answers that the model draws from nothing at temperature 1, in so many steps."""
    diffusion = model.config.diffusion
    for number in range(count):
        options: dict[str, Any] = {"temperature": 1.0, "seed": seed + number, "steps": steps}
        if diffusion.in_place:
            length = diffusion.canvas_length or model.config.denoiser.context_length
            prompt = [diffusion.mask_token_id] * length
        elif decodes_in_order(diffusion.sampler):
            prompt = [(number + (number >= diffusion.mask_token_id)) % model.config.num_tokens]
            del options["steps"]
        else:
            prompt = []
        if not diffusion.in_place:
            options["max_tokens"] = min(
                _OWN_LENGTH, model.config.denoiser.context_length - len(prompt)
            )
            options["eos"] = "forbid"
        ids = np.asarray(model.generate_ids(prompt, **options).ids, np.int32)
        yield Example(ids, np.arange(len(ids)), 0, has_answer=False)


def add_noise(
    example: Example, ratio: float, config: ModelConfig, random: np.random.Generator
) -> NoisyCanvas:
    """Mask that share of the open positions, at least one; of one block where models have them."""
    diffusion = config.diffusion
    ids, spots, context_length = example.ids, example.open, example.context_length
    if diffusion.shift_logits:
        spots = spots[spots > 0]  # nothing predicts the first token
    if diffusion.caches:
        blocks = _blocks_of(spots, example, config)
        block = random.choice(np.unique(blocks))
        spots = spots[blocks == block]
        ids, context_length = _cut(ids, int(block), example, config)
    masked = np.sort(random.permutation(spots)[: max(1, round(ratio * len(spots)))])
    noisy = ids.copy()
    noisy[masked] = diffusion.mask_token_id
    rows = masked - diffusion.shift_logits
    if config.denoiser.gate_rank:  # plain rows count as well: they are what the answer comes from
        rows = np.arange(len(noisy) - 1)
    return NoisyCanvas(noisy, masked, rows, context_length)


def clean_canvas(example: Example) -> NoisyCanvas:
    """The example as plain rows see it, each of which says what follows."""
    length = len(example.ids)
    return NoisyCanvas(example.ids, np.arange(1, length), np.arange(length - 1), length)


def met_canvas(ids: NDArray[np.int32], example: Example, config: ModelConfig) -> NoisyCanvas:
    """A canvas with masks as the model sees it: of blocks, the first one that has any."""
    diffusion = config.diffusion
    masked = np.flatnonzero(ids == diffusion.mask_token_id)
    context_length = example.context_length
    if diffusion.caches:
        block = int(_blocks_of(masked[:1], example, config)[0])
        ids, context_length = _cut(ids, block, example, config)
    masked = masked[(masked < len(ids)) & (masked >= int(diffusion.shift_logits))]
    return NoisyCanvas(ids, masked, masked - diffusion.shift_logits, context_length)


def _blocks_of(spots: NDArray[np.intp], example: Example, config: ModelConfig) -> NDArray[np.intp]:
    """The number of each position's block."""
    base = 0 if config.diffusion.block_align == "absolute" else example.context_length
    return (spots - base) // config.diffusion.block_length


def _cut(
    ids: NDArray[np.int32], block: int, example: Example, config: ModelConfig
) -> tuple[NDArray[np.int32], int]:
    """The canvas up to the end of a block, and the length of its context."""
    diffusion, context_length = config.diffusion, example.context_length
    base = 0 if diffusion.block_align == "absolute" else context_length
    start = max(0, base + block * diffusion.block_length)
    if diffusion.attention == "causal_context":
        context_length = start
    return ids[: start + diffusion.block_length], context_length


def prompt_of(example: Example, config: ModelConfig, seed: tuple[int, int]) -> NDArray[np.int32]:
    """What is asked: the example's holes; without a prompt half of the canvas, or what follows
    its first half.
    """
    diffusion = config.diffusion
    ids, holes = example.ids.copy(), example.open
    if not diffusion.in_place:
        return np.asarray(ids[: example.context_length or len(ids) // 2])
    if not example.has_answer:
        random = np.random.default_rng(seed)
        holes = random.permutation(holes)[: max(1, len(holes) // 2)]
    ids[holes] = diffusion.mask_token_id
    return np.asarray(ids)


def _text(model: edge.Model, text: str) -> Example:
    ids = _encode(model, text)
    return Example(ids, np.arange(len(ids)), 0, has_answer=False)


def _pair(model: edge.Model, prompt: str, answer: str) -> Example:
    before, after = _encode(model, prompt), _encode(model, answer)
    if not model.config.diffusion.in_place:
        spots = np.arange(len(before), len(before) + len(after))
        return Example(np.concatenate((before, after)), spots, len(before), has_answer=True)
    if len(before) != len(after):
        raise _Unusable(f"has a prompt of {len(before)} and an answer of {len(after)} tokens")
    holes = np.flatnonzero(before == model.config.diffusion.mask_token_id)
    return Example(after, holes, 0, has_answer=True)


def _encode(model: edge.Model, text: str) -> NDArray[np.int32]:
    if model.tokenizer is None:
        raise RequestError(
            "the model file has no tokenizer for the examples", hint="compare without examples"
        )
    return model.tokenizer.encode(text)


class _Unusable(Exception):
    """Why an example cannot be used."""


def _check(example: Example, config: ModelConfig) -> None:
    length, diffusion = len(example.ids), config.diffusion
    longest = config.denoiser.context_length
    if diffusion.in_place and length != (diffusion.canvas_length or length):
        raise _Unusable(f"has {length} tokens, the canvas has {diffusion.canvas_length}")
    if length > longest:
        raise _Unusable(f"has {length} tokens, the model's context {longest}")
    if (example.ids == diffusion.mask_token_id).any():
        raise _Unusable("has mask tokens in its clean text")
    if not (example.open >= int(diffusion.shift_logits)).any():
        raise _Unusable("leaves no position open")

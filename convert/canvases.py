"""Canvases at noise levels: what a denoiser meets on its way from masks to text.

Clean texts come from a file or are a model's own answers. For a fully bidirectional denoiser any
open position may be masked; one that decodes block by block gets one block with masks and all
before it clean, as when it decodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import RequestError

if TYPE_CHECKING:
    import edge
    from edge.config import ModelConfig

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


def own_examples(model: edge.Model, count: int, seed: int) -> Iterator[Example]:
    """Answers that the model draws from nothing at temperature 1."""
    diffusion = model.config.diffusion
    for number in range(count):
        options: dict[str, Any] = {"temperature": 1.0, "seed": seed + number}
        if diffusion.in_place:
            length = diffusion.canvas_length or model.config.denoiser.context_length
            prompt = [diffusion.mask_token_id] * length
        else:
            prompt = []
            options["max_tokens"] = min(_OWN_LENGTH, model.config.denoiser.context_length)
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
        base = 0 if diffusion.block_align == "absolute" else context_length
        blocks = (spots - base) // diffusion.block_length
        block = random.choice(np.unique(blocks))
        spots = spots[blocks == block]
        start = max(0, base + int(block) * diffusion.block_length)
        ids = ids[: start + diffusion.block_length]
        context_length = start if diffusion.attention == "causal_context" else context_length
    masked = np.sort(random.permutation(spots)[: max(1, round(ratio * len(spots)))])
    noisy = ids.copy()
    noisy[masked] = diffusion.mask_token_id
    return NoisyCanvas(noisy, masked, masked - diffusion.shift_logits, context_length)


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

"""The canvases of a calibration: clean texts under noise of all levels, and the model's own way
from noise to text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import edge
from convert.canvases import (
    Example,
    NoisyCanvas,
    add_noise,
    clean_canvas,
    clean_examples,
    draws_its_own,
    met_canvas,
    prompt_of,
)

_OWN_SHARE = 4  # one canvas in so many is met on the model's own way
_PER_ANSWER = 8  # canvases kept of one answer
_MOST_EXAMPLES = 10_000  # of a file
_NUM_OWN = 24  # answers drawn from nothing, of puzzles
_NUM_OWN_TEXTS = 4  # of models without a tokenizer
_STEPS = 16  # of an answer


def noisy_canvases(
    model: edge.Model, examples: Path | None, num_rows: int, seed: int
) -> list[NoisyCanvas]:
    """Canvases of about `num_rows` positions in all, at least one of each tenth of mask ratios.

    Without `examples` the package's own text is used, or what the model itself answers where
    that cannot be: a puzzle's canvas, a file without tokenizer. They are clean where masked rows
    have an adapter. Raises RequestError for unusable examples.
    """
    count = _MOST_EXAMPLES
    if examples is None and draws_its_own(model):
        count = _NUM_OWN if model.config.diffusion.in_place else _NUM_OWN_TEXTS
    clean = clean_examples(model, examples, count, seed, _STEPS)
    if model.config.denoiser.gate_rank:  # mask tokens do not meet the plain weights alone
        return first_rows(map(clean_canvas, clean), num_rows)
    noisy = _with_noise(model, clean, seed)
    met = _met(model, clean, seed)
    mixed = chain.from_iterable(zip(*[noisy] * (_OWN_SHARE - 1), met, strict=False))
    return first_rows(mixed, num_rows)


def first_rows(canvases: Iterable[NoisyCanvas], num_rows: int) -> list[NoisyCanvas]:
    """The first canvases that have so many positions in all, ten at least."""
    chosen: list[NoisyCanvas] = []
    for canvas in canvases:
        chosen.append(canvas)
        num_rows -= len(canvas.ids)
        if num_rows <= 0 and len(chosen) >= 10:
            break
    return chosen


def _with_noise(model: edge.Model, clean: Sequence[Example], seed: int) -> Iterator[NoisyCanvas]:
    """Without end; each ten in a row have ten ratios, one in each tenth of (0, 1]."""
    number = 0
    while True:
        random = np.random.default_rng((seed, number))
        ratio = (number % 10 + random.random()) / 10 + 1e-9
        yield add_noise(clean[number % len(clean)], ratio, model.config, random)
        number += 1


def _met(model: edge.Model, clean: Sequence[Example], seed: int) -> Iterator[NoisyCanvas]:
    """Without end; evenly spread over each answer."""
    number = 0
    while True:
        example = clean[number % len(clean)]
        drafts = _drafts(model, example, (seed, number))
        for index in np.unique(np.linspace(0, len(drafts) - 1, _PER_ANSWER).astype(int)):
            yield drafts[index]
        number += 1


def _drafts(model: edge.Model, example: Example, seed: tuple[int, int]) -> list[NoisyCanvas]:
    """What the model meets when it answers; the question alone where it needs one step."""
    config = model.config
    prompt = prompt_of(example, config, seed)
    options: dict[str, Any] = {"steps": _STEPS}
    if not config.diffusion.in_place:
        options["max_tokens"] = len(example.ids) - len(prompt)
    canvases = [
        met_canvas(event.ids, example, config)
        for event in model.stream_ids(prompt, **options)
        if isinstance(event, edge.Draft) and (event.ids == config.diffusion.mask_token_id).any()
    ]
    return canvases or [add_noise(example, 1.0, config, np.random.default_rng(seed))]

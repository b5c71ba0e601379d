"""A model's own greedy answers: the text that its drafts have to agree with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edge
from edge.formats.atomic_file import replacing

TEXTS = "texts.json"
_SAVE_EVERY = 20

Text = tuple[NDArray[np.int64], int]  # ids, and how many of them are the prompt


def own_texts(model_path: Path, prompts: Sequence[str], longest: int, folder: Path) -> list[Text]:
    """The model's answers to the prompts, kept in the folder; what is there is not asked again.

    Raises ValueError where the folder holds answers to other prompts.
    """
    path = folder / TEXTS
    kept = json.loads(path.read_text()) if path.exists() else []
    if [each["prompt"] for each in kept] != list(prompts[: len(kept)]):
        raise ValueError(f"{path} holds answers to other prompts; take a new folder")
    with edge.load(model_path) as model:
        eos = model.config.diffusion.eos_ids[:1]
        for prompt in prompts[len(kept) :]:
            kept.append({"prompt": prompt, **_answer(model, prompt, longest, eos)})
            if len(kept) % _SAVE_EVERY == 0 or len(kept) == len(prompts):
                with replacing(path) as file:
                    file.write_text(json.dumps(kept))
                print(f"{len(kept)}/{len(prompts)} answers", flush=True)
    return [(np.array(each["ids"]), each["num_given"]) for each in kept[: len(prompts)]]


def _answer(
    model: edge.Model, prompt: str, longest: int, eos: tuple[int, ...]
) -> dict[str, object]:
    given: list[int] = []
    events = model.stream(prompt, sampler="autoregressive", max_tokens=longest)
    for event in events:
        if isinstance(event, edge.Draft) and not given:
            given = event.ids[: event.output_start].tolist()
        if isinstance(event, edge.Done):
            answer = event.result.ids + list(eos if event.result.status == "eos" else ())
    return {"ids": given + answer, "num_given": len(given)}

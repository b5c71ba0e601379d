"""Turn a checkpoint folder into one GGUF file that says everything the runtime must know.

>>> import convert
>>> report = convert.convert("LLaDA-8B-Instruct", "llada-8b.gguf", "q8_0")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from convert.progress import Progress, silent
from convert.report import ConversionReport

__all__ = ["ConversionReport", "convert"]


def convert(
    source: str | PathLike[str],
    out: str | PathLike[str],
    type: str = "q8_0",
    *,
    force: bool = False,
    dry_run: bool = False,
    report: str | PathLike[str] | None = None,
    overrides: Mapping[str, str] | None = None,
    mask_token_id: int | None = None,
    adapter: str | PathLike[str] | None = None,
    group_size: int | None = None,
    minima: bool = True,
    bf16_activations: Sequence[str] = (),
    progress: Progress = silent,
) -> ConversionReport:
    """Convert the checkpoint folder `source` to the GGUF file `out` and verify it.

    `type` is f32, f16, bf16, int8, int4, q8_0 or q4_0; norms, biases and position tables stay f32.
    `adapter` is the folder of a low-rank adapter in PEFT's layout that is merged into the weights
    before they are stored.
    `group_size` 128, 64 or 32 is the largest group of int8 (by default a row) and int4 (128) that
    may share a scale; without `minima` int4 is symmetric. What enters the quantized matrices whose
    names match a pattern of `bf16_activations` ("*.ffn_down.weight") is not rounded to int8 but to
    bfloat16. `force`
    allows `out` and `report` to exist; they are replaced once the new ones are whole and verified.
    `dry_run` writes nothing.
    `overrides` are diffusion.*, edge.task and general.name keys.
    `progress(stage, done_bytes, stage_bytes)` is called as the work goes on. About three times
    the largest tensor as float32 is held in memory, never the whole model.

    Raises RequestError for the arguments, ModelNotFoundError, ModelFileError and
    UnsupportedModelError for the checkpoint, and OSError from the disk.
    """
    from convert.models.base import Choices
    from convert.pipeline import Request, parse_settings, run
    from edge.formats.groups import Choice

    return run(
        Request(
            source=Path(source),
            out=Path(out),
            adapter=None if adapter is None else Path(adapter),
            type=type,
            force=force,
            dry_run=dry_run,
            report=None if report is None else Path(report),
            groups=Choice(group_size or 0, minima),
            bf16_activations=tuple(bf16_activations),
            choices=Choices(mask_token_id, parse_settings(overrides or {})),
            progress=progress,
        )
    )

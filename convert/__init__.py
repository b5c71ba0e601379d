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
    type: str | None = None,
    *,
    preset: str | None = None,
    recipe: str | PathLike[str] | None = None,
    method: str | None = None,
    smooth: bool | None = None,
    bits: float | None = None,
    size_bytes: int | None = None,
    group_size: int | None = None,
    minima: bool | None = None,
    bf16_activations: Sequence[str] = (),
    examples: str | PathLike[str] | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
    report: str | PathLike[str] | None = None,
    card: str | PathLike[str] | None = None,
    overrides: Mapping[str, str] | None = None,
    mask_token_id: int | None = None,
    adapter: str | PathLike[str] | None = None,
    gated_adapter: str | PathLike[str] | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> ConversionReport:
    """Convert `source`, a checkpoint folder or a GGUF, to the GGUF file `out` and verify it.

    `type` is f32, f16, bf16, int8, int4, q8_0 (by default) or q4_0; norms, biases and position
    tables stay f32. A `preset` is small or balanced (int4) or faithful (int8), which int4 and int8
    take by themselves, balanced and faithful; a `recipe` is a JSON file that says the same in
    detail. Both run the model: `method` "compensated" rounds weights so that they make good each
    other's errors for inputs at all noise levels, "nearest" does not; `smooth`, by default for
    int8, first evens out channels with the columns they meet, by powers of two where that helps.
    `examples` are texts to run it on, a line each, or a prompt, a tab and its answer; by default
    the package's own.

    `bits` per weight, or `size_bytes` for the file, is what int4 may take, given to the tensors
    where it matters most. `group_size` 128, 64 or 32 is the largest group of int8 (by default a
    row) and int4 (by default 32) that may share a scale; with `minima` int4 is not symmetric. What
    enters the quantized matrices whose names match a pattern of `bf16_activations`
    ("*.ffn_down.weight") is not rounded to int8 but to bfloat16.

    `adapter` is the folder of a low-rank adapter in PEFT's layout that is merged into the weights
    before anything is rounded, `gated_adapter` that of one which only mask tokens run with: it is
    stored beside the weights of an autoregressive checkpoint. `force` allows `out`, `report` (JSON)
    and `card` (Markdown) to exist; they are replaced once the new ones are whole and
    verified. `dry_run` writes nothing.
    `overrides` are diffusion.*, edge.task and general.name keys. The same source, options and seed
    give the same bytes with any number of `threads` (by default all). What a run with calibration
    has done is kept beside `out` until it is finished; the same call goes on after a kill.
    `progress(stage, done, of)` is called as the work goes on.

    Raises RequestError for the arguments, ModelNotFoundError, ModelFileError and
    UnsupportedModelError for the checkpoint, and OSError from the disk.
    """
    from convert.job import Request
    from convert.models.base import Choices
    from convert.parallel import num_cores
    from convert.pipeline import parse_settings, run
    from convert.recipe import chosen

    changes = {
        "type": type,
        "method": method,
        "smooth": smooth,
        "bits": bits,
        "size_bytes": size_bytes,
        "group_size": group_size,
        "minima": minima,
        "bf16_activations": tuple(bf16_activations) or None,
    }
    return run(
        Request(
            source=Path(source),
            out=Path(out),
            adapter=None if adapter is None else Path(adapter),
            gated_adapter=None if gated_adapter is None else Path(gated_adapter),
            recipe=chosen(preset, None if recipe is None else Path(recipe), changes),
            force=force,
            dry_run=dry_run,
            report=None if report is None else Path(report),
            card=None if card is None else Path(card),
            choices=Choices(mask_token_id, parse_settings(overrides or {})),
            examples=None if examples is None else Path(examples),
            seed=seed,
            threads=num_cores() if threads is None else threads,
            progress=progress,
        )
    )

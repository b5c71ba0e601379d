"""The command ``edge-convert``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import click

from convert import convert
from convert.compare_cli import COMPARE
from convert.compare_cli import command as compare_command
from convert.progress import progress_bar
from convert.recipe import METHODS, PRESETS
from convert.report import ConversionReport
from edge.exit_codes import guarded, verbose_option
from edge.formats.groups import GROUP_SIZES, TYPES

PROGRAM = "edge-convert"
_EPILOG = """\b
Examples:
  edge-convert LLaDA-8B-Instruct llada-8b.gguf
  edge-convert LLaDA-8B-Instruct llada-8b.gguf --type int4 --report llada-8b.json
  edge-convert LLaDA-8B-Instruct llada-8b.gguf --type int4 --size 4.2GB --calibrate texts.txt
  edge-convert Qwen3-0.6B-diffusion-bd3lm-v0.1 bd3lm.gguf --set diffusion.attention=block
  edge-convert ./my-model my-model.gguf --dry-run
  edge-convert ./my-model my-model.gguf --set diffusion.threshold=0.95 --set edge.task=sudoku
  edge-convert public-Q6_K.gguf my-int4.gguf --type int4 --set diffusion.threshold=0.95
  edge-convert ./my-model my-model.gguf --adapter ./my-lora --type int8
  edge-convert ./smollm my-drafter.gguf --gated-adapter ./my-gated-lora
  edge-convert compare my-model-f32.gguf my-model-int4.gguf

Every option has an environment variable, EDGE_CONVERT_TYPE for --type and so on.
"""


class Bytes(click.ParamType[int]):
    """A size as people write it."""

    name = "size"
    _UNITS: ClassVar[dict[str, int]] = {"B": 1, "": 1} | {
        f"{letter}{i}B": (1024 if i else 1000) ** (number + 1)
        for number, letter in enumerate("KMGT")
        for i in ("", "i")
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes of a text like 1.1GB, 700 MiB or 4096."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?i?B?)\s*", str(value))
        unit = match[2].replace("k", "K") if match else None
        if match is None or unit not in self._UNITS:
            self.fail(f"{value!r} is no size like 1.1GB, 700MiB or 4096", param, ctx)
        return round(float(match[1]) * self._UNITS[unit])


@click.command(
    PROGRAM,
    epilog=_EPILOG,
    context_settings={
        "auto_envvar_prefix": "EDGE_CONVERT",
        "help_option_names": ["-h", "--help"],
    },
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.gguf")
@click.option(
    "--type",
    type=click.Choice(TYPES),
    help="How weights are stored; norms, biases and position tables stay f32.  [default: q8_0]",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="small and balanced are int4, faithful is int8.  [default: what suits --type]",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A JSON file with the recipe that a report tells, changed as you like.",
)
@click.option(
    "--bits",
    type=click.FloatRange(1, 32),
    metavar="N",
    help="Bits per weight that int4 may take, given to the tensors where they matter most.",
)
@click.option(
    "--size",
    type=Bytes(),
    metavar="SIZE",
    help="The same as the size of the file, e.g. 1.1GB or 700MiB.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Round int8 and int4 to nearest, or so that weights make good each other's errors, "
    "which runs the model.  [default: compensated]",
)
@click.option(
    "--smooth/--no-smooth",
    default=None,
    help="Before rounding, even out channels with the columns of weights they meet, by powers of "
    "two where measured to help; the float network stays the same.  [default: for int8]",
)
@click.option(
    "--calibrate",
    "examples",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Texts to run the model on: a line is a text, or a prompt, a tab and its answer.  "
    "[default: the package's own]",
)
@click.option(
    "--group-size",
    type=click.Choice([str(size) for size in GROUP_SIZES]),
    help="The largest group of int8 or int4 weights to share a scale.  [default: a row, 32]",
)
@click.option(
    "--minima/--no-minima",
    default=None,
    help="Give each group of int4 a minimum beside its scale: 16 bits more per group.",
)
@click.option(
    "--bf16-activations",
    envvar="EDGE_CONVERT_BF16_ACTIVATIONS",
    multiple=True,
    metavar="PATTERN",
    help="Round what enters these quantized matrices to bfloat16, not to int8: more exact, and "
    "slower, e.g. '*.ffn_down.weight'; repeatable.",
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Merge this LoRA adapter (adapter_config.json, adapter_model.safetensors) into the "
    "weights before they are stored.",
)
@click.option(
    "--gated-adapter",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Store this LoRA adapter beside the weights of an autoregressive SOURCE, for mask tokens "
    "only: they draft, the plain weights verify.",
)
@click.option("--dry-run", is_flag=True, help="Print which tensor becomes what; write nothing.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the errors of every tensor as JSON, and what was lost against the source, of int8 "
    "and int4 or with --calibrate.",
)
@click.option(
    "--card",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a model card in Markdown, with what was lost against the source.",
)
@click.option(
    "--set",
    "settings",
    envvar="EDGE_CONVERT_SET",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a diffusion.*, edge.task or general.name key of the file; repeatable.",
)
@click.option(
    "--mask-token-id",
    type=int,
    metavar="N",
    help="The mask token, where neither config.json nor the tokenizer names it rightly.",
)
@click.option("--seed", type=click.IntRange(0, 2**32), default=0, help="Of the calibration.")
@click.option("--threads", type=click.IntRange(1, 1024), help="[default: all cores]")
@click.option("--force", is_flag=True, help="Replace OUT (and what is beside it) if it exists.")
@click.option(
    "--json",
    "as_json",
    envvar="EDGE_CONVERT_JSON",
    is_flag=True,
    help="Print the report as JSON on stdout.",
)
@click.option("--quiet", is_flag=True, help="No progress bar, no summary.")
@verbose_option
def command(
    source: Path,
    out: Path,
    size: int | None,
    settings: tuple[str, ...],
    group_size: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Convert SOURCE, a checkpoint folder (config.json, safetensors) or a GGUF, to one GGUF file.

    int8 and int4 run the model to see what its weights meet; that takes a while, and the same
    command goes on where a killed one stopped. What a type costs the denoiser is told by --report
    and by `edge-convert compare` (see its --help).

    OUT is replaced only when the new file is whole and was compared with SOURCE. Pickled
    checkpoints are refused.
    """
    with progress_bar(quiet or not sys.stderr.isatty()) as progress:
        result = convert(
            source,
            out,
            overrides=_pairs(settings),
            group_size=int(group_size) if group_size else None,
            size_bytes=size,
            progress=progress,
            **options,
        )
    if as_json:
        click.echo(json.dumps(result.to_json()))
    elif result.dry_run:
        click.echo("\n".join(_table(result)))
    if not quiet:
        click.echo(_summary(result), err=True)


def main() -> None:
    """Run the command and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Return the exit code; a checkpoint folder called compare is given as ./compare."""
    if arguments[:1] == [COMPARE]:
        return guarded(f"{PROGRAM} {COMPARE}", compare_command, arguments[1:])
    return guarded(PROGRAM, command, arguments)


def _pairs(settings: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise click.BadParameter(f"{setting!r} is not KEY=VALUE", param_hint="--set")
        if key in pairs:
            raise click.BadParameter(f"{key!r} is set twice", param_hint="--set")
        pairs[key] = value
    return pairs


def _table(result: ConversionReport) -> Iterator[str]:
    """The plan as aligned columns, one line per tensor, and the totals."""
    rows = [("tensor", "type", "shape", "bytes", "source")]
    for tensor in result.tensors:
        shape = "x".join(map(str, tensor.shape))
        rows.append((tensor.name, tensor.type, shape, str(tensor.bytes), tensor.source_name))
    rows.append(("total", result.type, str(result.num_weights), str(result.tensor_bytes), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, kind, shape, size, source in rows:
        cells = f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {shape:>{widths[2]}}"
        yield f"{cells}  {size:>{widths[3]}}  {source}".rstrip()


def _summary(result: ConversionReport) -> str:
    from convert.models.base import folded

    verb = "would write" if result.dry_run else "wrote"
    lines = [
        f"{verb} {result.output}: {result.architecture}, {result.type}, "
        f"{result.size_bytes / 2**20:.2f} MiB, {result.bits_per_weight:.2f} bits per weight "
        f"(source {result.source_bytes / 2**20:.2f} MiB)"
    ]
    reasons = sorted({kept.reason for kept in result.kept_f16})
    for reason in reasons:
        names = folded(kept.name for kept in result.kept_f16 if kept.reason == reason)
        lines.append(f"kept as f16: {', '.join(names)} ({reason})")
    if result.bf16_activations:
        lines.append(f"bfloat16 activations: {', '.join(folded(result.bf16_activations))}")
    if result.ignored:
        lines.append(f"ignored: {', '.join(folded(result.ignored))}")
    lines += [f"note: {note}" for note in result.notes]
    if result.speed:
        speed = result.speed
        lines.append(
            f"converted at {speed.input_mb_per_s:,.0f} MB/s of input; this machine copies memory "
            f"at {speed.memory_copy_mb_per_s:,.0f}, and reads the source at "
            f"{speed.read_mb_per_s:,.0f} MB/s"
        )
    if result.comparison:
        file = result.comparison.files[1]
        lines.append(
            f"against the source: same likeliest token {file.top1_agreement:.2%}, "
            f"KL {file.kl_nats:.2g} nats"
        )
    if result.activations:
        agreement, kl = result.activations.top1_agreement, result.activations.mean_kl_nats
        lines.append(
            f"int8 against f32 activations: top-1 agreement {agreement:.1%}, KL {kl:.2g} nats"
        )
    return "\n".join(lines)

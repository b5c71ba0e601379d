"""The command ``edge-convert``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from convert import convert
from convert.compare_cli import COMPARE
from convert.compare_cli import command as compare_command
from convert.progress import progress_bar
from convert.report import ConversionReport
from edge.exit_codes import guarded, verbose_option
from edge.formats.groups import GROUP_SIZES, TYPES

PROGRAM = "edge-convert"
_EPILOG = """\b
Examples:
  edge-convert LLaDA-8B-Instruct llada-8b.gguf
  edge-convert LLaDA-8B-Instruct llada-8b.gguf --type q4_0 --report llada-8b.json
  edge-convert Qwen3-0.6B-diffusion-bd3lm-v0.1 bd3lm.gguf --set diffusion.attention=block
  edge-convert ./my-model my-model.gguf --dry-run
  edge-convert ./my-model my-model.gguf --set diffusion.threshold=0.95 --set edge.task=sudoku
  edge-convert ./my-model my-model.gguf --adapter ./my-lora --type int8
  edge-convert compare my-model-f32.gguf my-model-int4.gguf

Every option has an environment variable, EDGE_CONVERT_TYPE for --type and so on.
"""


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
    default="q8_0",
    show_default=True,
    help="How weights are stored; norms, biases and position tables stay f32.",
)
@click.option(
    "--group-size",
    type=click.Choice([str(size) for size in GROUP_SIZES]),
    help="The largest group of int8 or int4 weights to share a scale.  [default: a row, 128]",
)
@click.option(
    "--minima/--no-minima",
    default=True,
    show_default=True,
    help="Give each group of int4 a minimum beside its scale: less error, 16 bits per group.",
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
@click.option("--dry-run", is_flag=True, help="Print which tensor becomes what; write nothing.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the errors of every tensor and of a forward with int8 activations as JSON.",
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
@click.option("--force", is_flag=True, help="Replace OUT (and the report) if it exists.")
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
    type: str,
    group_size: str | None,
    minima: bool,
    bf16_activations: tuple[str, ...],
    adapter: Path | None,
    dry_run: bool,
    report: Path | None,
    settings: tuple[str, ...],
    mask_token_id: int | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert the checkpoint folder SOURCE (config.json, safetensors) to one GGUF file.

    What a type costs the denoiser is told by `edge-convert compare` (see its --help).

    OUT is replaced only when the new file is whole and was compared with SOURCE. Pickled
    checkpoints are refused.
    """
    with progress_bar(quiet or not sys.stderr.isatty()) as progress:
        result = convert(
            source,
            out,
            type,
            force=force,
            dry_run=dry_run,
            report=report,
            overrides=_pairs(settings),
            mask_token_id=mask_token_id,
            adapter=adapter,
            group_size=int(group_size) if group_size else None,
            minima=minima,
            bf16_activations=bf16_activations,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(result.to_json()))
    elif dry_run:
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
    if result.activations:
        agreement, kl = result.activations.top1_agreement, result.activations.mean_kl_nats
        lines.append(
            f"int8 against f32 activations: top-1 agreement {agreement:.1%}, KL {kl:.2g} nats"
        )
    return "\n".join(lines)

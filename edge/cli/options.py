"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

import click

model_option = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="A GGUF file or the name of an embedded denoiser (default: see 'edge models').",
)
COUNT = click.IntRange(min=1)
threads_option = click.option(
    "--threads", type=COUNT, metavar="N", help="Default: one per big core."
)
activations_option = click.option(
    "--activations",
    type=click.Choice(["int8", "f32"]),
    default="int8",
    show_default=True,
    help="int8 is faster, f32 more exact.",
)
json_option = click.option("--json", is_flag=True, help="Print one JSON object on stdout.")

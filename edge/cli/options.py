"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

import click

model_option = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="A GGUF file or the name of an embedded denoiser (default: see 'edge models').",
)
json_option = click.option("--json", is_flag=True, help="Print one JSON object on stdout.")

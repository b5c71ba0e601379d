"""``edge calibrate``: measure what a step costs on this device."""

from __future__ import annotations

from typing import Any

import click

from edge.cli.options import (
    activations_option,
    json_option,
    kv_option,
    model_option,
    threads_option,
)
from edge.cli.output import print_object, print_rows
from edge.exit_codes import verbose_option


@click.command(name="calibrate")
@model_option
@threads_option
@activations_option
@kv_option
@json_option
@verbose_option
def command(model: str | None, threads: int | None, activations: str, kv: str, json: bool) -> None:
    """Measure what a denoising step costs on this device and store it.

    Times a few forwards (up to 3 seconds, longer for a large model) by active rows,
    context and rows of the head. 'edge run --budget' plans with them; without them
    its first answers have to find out. Measure while the machine is as busy as it
    usually is. A profile belongs to the model's shapes and types, the processor, the
    number of threads, the activations, --kv and this version; what does not fit is ignored.

    \b
    Examples:
      edge calibrate
      edge calibrate -m model.gguf --threads 2
      edge calibrate -m model.gguf --json
    """
    import edge

    with edge.load(model, threads=threads, activations=activations, kv=kv) as loaded:
        costs, path = loaded.calibrate()
        facts: dict[str, Any] = {
            "model": loaded.info.name,
            "isa": loaded.isa,
            "threads": loaded.threads,
            "activations": loaded.activations,
            "kv": loaded.kv,
            "profile": path,
        }
    fields = costs.to_json()
    if json:
        print_object({**facts, **fields})
        return
    print_rows(facts)
    click.echo("ms of a forward without its head, by active rows")
    print_rows({f"  {rows}": f"{ns / 1e6:.3f}" for rows, ns in fields["body"]})
    click.echo("ms of the head, by its rows")
    print_rows({f"  {rows}": f"{ns / 1e6:.3f}" for rows, ns in fields["head"]})
    click.echo(f"ns of an active row per token of context: {costs.attention_ns:.1f}")

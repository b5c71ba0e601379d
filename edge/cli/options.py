"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import click

_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s)?")


def milliseconds(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> float | None:
    """Read ``800ms``, ``2s`` or a number of ms; refuse what is no time above 0."""
    if text is None:
        return None
    match = _TIME.fullmatch(text.strip())
    time_ms = float(match[1]) * (1000 if match[2] == "s" else 1) if match else 0.0
    if not 0 < time_ms < math.inf:
        problem = f"{text!r} is no time - write 800ms, 2s or a number of ms"
        raise click.BadParameter(problem, context, parameter)
    return time_ms


def whole_numbers(low: int) -> Callable[..., tuple[int, ...] | None]:
    """Read a list of whole numbers from ``low`` on, separated by commas."""

    def read(
        context: click.Context, parameter: click.Parameter, text: str | None
    ) -> tuple[int, ...] | None:
        words = [] if text is None else [word.strip() for word in text.split(",")]
        if not all(re.fullmatch("[0-9]{1,9}", word) and int(word) >= low for word in words):
            problem = f"{text!r} is not a list of whole numbers from {low} on, like 1,8,32"
            raise click.BadParameter(problem, context, parameter)
        return tuple(map(int, words)) or None

    return read


def several_milliseconds(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """Read a list of times, separated by commas."""
    words = [] if text is None else text.split(",")
    times = (milliseconds(context, parameter, word) for word in words)
    return tuple(time for time in times if time is not None) or None


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--budget``, ``--on-tight`` and ``--on-infeasible``."""
    options = (
        click.option(
            "--budget",
            callback=milliseconds,
            metavar="TIME",
            help="Latency budget, e.g. 800ms or 2s; counts from when the model is loaded.",
        ),
        click.option(
            "--on-tight",
            type=click.Choice(["shorten", "coarse"]),
            default="shorten",
            show_default=True,
            help="Where time is short: fewer blocks, or several blocks denoised at once.",
        ),
        click.option(
            "--on-infeasible",
            type=click.Choice(["best-effort", "error"]),
            default="best-effort",
            show_default=True,
            help="Where the budget is too short for anything: a late answer, or exit with 7.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def budget_request(budget: float | None, on_tight: str, on_infeasible: str) -> dict[str, Any]:
    """What the library is asked for by these options."""
    return {
        "budget_ms": budget,
        "on_tight": on_tight,
        "on_infeasible": on_infeasible.replace("-", "_"),
    }


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
kv_option = click.option(
    "--kv",
    type=click.Choice(["auto", "f32", "bf16", "int8"]),
    default="auto",
    show_default=True,
    help="How keys and values are kept; bf16 and int8 are faster and smaller, f32 more exact. "
    "auto: bf16 where weights and activations are quantized.",
)
pack_cache_option = click.option(
    "--pack-cache/--no-pack-cache",
    default=True,
    help="Keep a large model's packed weights in the cache folder (default), or do not.",
)
json_option = click.option("--json", is_flag=True, help="Print one JSON object on stdout.")

"""What every command that answers can be asked: how to refine, with what, what to show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from edge.cli.options import (
    COUNT,
    activations_option,
    budget_options,
    json_option,
    kv_option,
    pack_cache_option,
    threads_option,
)
from edge.exit_codes import verbose_option

Command = Callable[..., Any]


def known_sampler(
    context: click.Context, parameter: click.Parameter, name: str | None
) -> str | None:
    """Refuse an unknown sampler; the registry is only loaded when one is named."""
    if name is None:
        return None
    from edge.samplers import names

    if name not in names():
        problem = f"{name!r} is not one of {', '.join(names())}"
        raise click.BadParameter(problem, context, parameter)
    return name


_HOW_TO_REFINE = (
    click.option("--tokens", type=COUNT, metavar="N", help="Most tokens of the answer."),
    budget_options,
    click.option("--steps", type=COUNT, metavar="N", help="Denoising steps, all blocks together."),
    click.option("--steps-per-block", type=COUNT, metavar="N", help="Denoising steps per block."),
    click.option(
        "--sampler",
        metavar="NAME",
        callback=known_sampler,
        help="Rule that picks what to commit, e.g. low_confidence_dynamic.",
    ),
    click.option(
        "--threshold", type=float, metavar="X", help="Confidence from which a sampler commits."
    ),
    click.option(
        "--segment-threshold", type=float, metavar="X", help="Of hierarchical, per run of holes."
    ),
    click.option(
        "--edit-threshold",
        type=float,
        metavar="X",
        help="Of joint_threshold: confidence from which a token that stands is replaced.",
    ),
    click.option(
        "--post-edit-steps",
        type=click.IntRange(min=0),
        metavar="N",
        help="Of joint_threshold: steps that may only edit, per block.",
    ),
    click.option(
        "--preset",
        type=click.Choice(["quality", "speed"]),
        help="Of joint_threshold: its thresholds where none are given.",
    ),
    click.option("--factor", type=float, metavar="X", help="Of the sampler factor."),
    click.option("--entropy-bound", type=float, metavar="NATS", help="Of entropy_bounded."),
    click.option(
        "--rank",
        type=click.Choice(["confidence", "margin", "entropy", "random"]),
        help="What makes a position sure.",
    ),
    click.option(
        "--block-length",
        type=COUNT,
        metavar="N",
        help="Tokens decoded together; of speculative, always N - 1 drafted.",
    ),
    click.option(
        "--temperature",
        type=float,
        metavar="T",
        default=0.0,
        show_default=True,
        help="0 is greedy.",
    ),
    click.option("--top-k", type=COUNT, metavar="K", help="Draw among the K most probable tokens."),
    click.option("--top-p", type=float, metavar="P", help="Draw among the fewest that reach P."),
    click.option(
        "--guidance",
        type=float,
        metavar="X",
        default=0.0,
        help="Classifier-free guidance; doubles the forwards.",
    ),
    click.option(
        "--eos",
        type=click.Choice(["stop", "late", "forbid"]),
        default="stop",
        show_default=True,
        help="End tokens end the answer, are committed last, or never.",
    ),
    click.option(
        "--early-stop",
        type=click.Choice(["none", "stable", "schedule"]),
        default="none",
        show_default=True,
        help="Fill the rest of a block once its candidates stay, or their logits are far apart.",
    ),
    click.option(
        "--remask",
        type=click.Choice(["none", "conf"]),
        default="none",
        show_default=True,
        help="Spend steps, or time, left over on deciding the least sure tokens anew.",
    ),
    click.option("--credit", is_flag=True, help="Commit candidates that stay first sooner."),
    click.option(
        "--cache",
        type=click.Choice(["exact", "dual"]),
        default="exact",
        show_default=True,
        help="Reuse what cannot change, or (full attention) nearly all: faster, approximate.",
    ),
    click.option(
        "--cache-window",
        type=COUNT,
        metavar="N",
        help="Tokens beside the block that dual computes.",
    ),
    click.option(
        "--fused/--no-fused",
        default=None,
        help="Store a finished block in the next one's first forward (default: where exact).",
    ),
    click.option(
        "--seed",
        type=int,
        metavar="N",
        default=0,
        show_default=True,
        help="For temperatures above 0.",
    ),
)
_WITH_WHAT = (threads_option, activations_option, kv_option, pack_cache_option)
_WHAT_TO_SHOW = (
    click.option(
        "--live/--no-live",
        default=None,
        help="Draw the canvas on a terminal while it is refined "
        "(default: unless --json or a pipe).",
    ),
    json_option,
    click.option("--stats", is_flag=True, help="Print steps, time and memory on stderr."),
    verbose_option,
)


def answer_options(command: Command) -> Command:
    """Give a command the options of an answer, the same for all that give one."""
    for option in reversed((*_HOW_TO_REFINE, *_WITH_WHAT, *_WHAT_TO_SHOW)):
        command = option(command)
    return command

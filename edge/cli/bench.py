"""``edge bench``: how fast a denoising step is on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge.cli.bench_table import about_llama, print_table
from edge.cli.options import (
    COUNT,
    activations_option,
    json_option,
    kv_option,
    model_option,
    threads_option,
    whole_numbers,
)
from edge.cli.output import print_object, size_in_words, stderr_can_redraw, without_controls
from edge.exit_codes import verbose_option
from edge.formats.groups import TYPES
from edge.machine import cpu_name

if TYPE_CHECKING:
    from edge._native import PeakRates
    from edge.bench import Plan, Subject
    from edge.versus import Peer

Show = Callable[[str], None]

DEFAULT_TYPE = "q8_0"
NO_NAME = ""
IDLE_SECONDS = 0.2  # looking at what other programs take
BUSY = 0.1


def known_shape(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Refuse a name that is unknown or was left out, listing the known ones."""
    if name is None:
        return None
    from edge.shapes import SHAPES

    if name not in SHAPES:
        problem = "no name is given" if name == NO_NAME else f"{name!r} is unknown"
        raise click.BadParameter(f"{problem}; known: {', '.join(SHAPES)}", context, parameter)
    return name


@click.command(name="bench")
@model_option
@click.option(
    "--shape",
    metavar="NAME",
    is_flag=False,
    flag_value=NO_NAME,
    callback=known_shape,
    help="Random weights of a known model's sizes, to know its speed before a download; "
    "without NAME: list the known ones.",
)
@click.option(
    "--type",
    type=click.Choice(TYPES),
    help=f"Of the random weights.  [default: {DEFAULT_TYPE}]",
)
@click.option(
    "--layers",
    type=COUNT,
    metavar="N",
    help="Run only N layers of a shape that is too large; times are scaled to all of them.",
)
@click.option(
    "--rows",
    callback=whole_numbers(1),
    metavar="N,...",
    help="Active rows: tokens that a step computes.  [default: 1,8,32]",
)
@click.option(
    "--context",
    callback=whole_numbers(0),
    metavar="N,...",
    help="Cached positions before them.  [default: 0,256,1024, as far as the model goes]",
)
@click.option(
    "--head-rows", type=COUNT, metavar="N", help="Most rows that the head evaluates (default: all)."
)
@click.option(
    "--repeats", type=COUNT, metavar="N", default=10, show_default=True, help="Steps per figure."
)
@click.option(
    "--vs-llama",
    is_flag=True,
    help="Compare with llama.cpp, its steps and ours in turns (needs the extra 'llama').",
)
@threads_option
@activations_option
@kv_option
@json_option
@verbose_option
def command(
    model: str | None,
    shape: str | None,
    type: str | None,
    layers: int | None,
    rows: tuple[int, ...] | None,
    context: tuple[int, ...] | None,
    head_rows: int | None,
    repeats: int,
    vs_llama: bool,
    threads: int | None,
    activations: str,
    kv: str,
    json: bool,
) -> None:
    """Measure the speed of one denoising step on this machine.

    For every number of active rows behind every length of an exactly cached
    context: the median step and its parts, the 95th percentile, and how far
    from the machine's own peak that is. Of a model file also a short answer:
    forwards and tokens per second. A model with full attention caches nothing:
    its step has the whole canvas as rows, and context 0.

    --vs-llama runs each step in llama.cpp as well, in turns with ours: the same
    network, rows, context and type of weights (q8_0 for int8, q4_0 for int4), with
    the number of threads, up to ours, that suits it best. A model file must be one
    that llama.cpp knows, with architecture llada, dream, llada-moe or rnd1.

    \b
    Examples:
      edge bench
      edge bench -m model.gguf --rows 4,32 --context 0,512 --json
      edge bench --shape qwen3-0.6b --type q4_0
      edge bench --shape sdar-8b --type q4_0 --layers 6
      edge bench --shape llada2-mini --type int4 --layers 4
      edge bench --shape qwen3-0.6b --type q4_0 --vs-llama
    """
    _refuse_contradictions(model, shape, type, layers)
    options = {"threads": threads, "activations": activations, "kv": kv}
    lists = {"rows": rows, "contexts": context, "head_rows": head_rows, "repeats": repeats}
    _refuse_without_llama(vs_llama)
    with _progress() as show:
        if shape is None:
            report = _bench_file(model, lists, options, vs_llama, show)
        else:
            kind = type or DEFAULT_TYPE
            report = _bench_shape(shape, kind, layers, lists, options, vs_llama, show)
    if json:
        print_object(report)
    else:
        _print(report)


def _refuse_contradictions(
    model: str | None, shape: str | None, type: str | None, layers: int | None
) -> None:
    if shape is not None and model is not None:
        problem = "--model and --shape exclude each other"
    elif shape is None and (type or layers):
        problem = f"{'--type' if type else '--layers'} goes with --shape only"
    else:
        return
    raise click.UsageError(problem, click.get_current_context())


def _refuse_without_llama(vs_llama: bool) -> None:
    if vs_llama:
        from edge.backends.llama_peer import check_llama

        check_llama()


def _bench_file(
    model: str | None,
    lists: dict[str, Any],
    options: dict[str, Any],
    vs_llama: bool,
    show: Show,
) -> dict[str, Any]:
    from edge import versus
    from edge.bench import opened_file, plan_for, time_generation
    from edge.info import inspect

    info = inspect(model)
    if vs_llama:
        lists = {**lists, "contexts": lists["contexts"] or (0,)}  # it caches nothing for a file
    plan = plan_for(info.config.denoiser.context_length, **lists)
    if vs_llama:
        versus.check_file(info, plan)
    show("loading")
    identity = {"name": info.name, "path": info.path, "sha256": info.file_sha256()}
    with opened_file(info, plan, **options) as subject:
        threads = subject.backend.threads
        peer = versus.opened_file(info, plan, threads=threads) if vs_llama else None
        measured = _measured(subject, plan, options, peer, show)
    report = {**identity, "random_weights": False, **measured}
    show("generating a short answer")
    stats = time_generation(model, **options)
    return {**report, "generation": asdict(stats), "peak_rss_bytes": stats.peak_rss_bytes}


def _bench_shape(
    name: str,
    kind: str,
    layers: int | None,
    lists: dict[str, Any],
    options: dict[str, Any],
    vs_llama: bool,
    show: Show,
) -> dict[str, Any]:
    from edge import versus
    from edge.bench import opened_shape, plan_for
    from edge.shapes import SHAPES

    shape = SHAPES[name]
    plan = plan_for(shape.context_length, **lists)
    identity = {"name": name, "path": None, "sha256": None, "random_weights": True}
    thin: dict[str, Any] = {"layers": layers, "advance": _advance(show)}
    with opened_shape(shape, kind, plan, **thin, **options) as subject:
        thin = {**thin, "threads": subject.backend.threads}
        peer = versus.opened_shape(shape, kind, plan, **thin) if vs_llama else None
        return {**identity, **_measured(subject, plan, options, peer, show)}


def _advance(show: Show) -> Callable[[int], None]:
    """Return what shows how much is written."""
    written = 0

    def advance(num_bytes: int) -> None:
        nonlocal written
        written += num_bytes
        show(f"writing random weights: {size_in_words(written)}")

    return advance


def _measured(
    subject: Subject,
    plan: Plan,
    options: dict[str, Any],
    opening_peer: AbstractContextManager[Peer] | None,
    show: Show,
) -> dict[str, Any]:
    import psutil

    from edge import __version__
    from edge._native import measure_peak
    from edge.bench import WARM_UPS
    from edge.peak_record import best_peak

    show("measuring the machine")
    others = psutil.cpu_percent(IDLE_SECONDS) / 100
    peak = measure_peak(subject.backend.threads, subject.backend.isa)
    measurements = []
    if opening_peer is not None:
        show("preparing llama.cpp")
    with opening_peer or nullcontext() as peer:
        for measurement in _measurements(subject, peer, plan, peak):
            measurements.append(measurement)
            show(f"measured {len(measurements)} of {plan.num_measurements}")
    return {
        "type": subject.type,
        "num_layers": subject.num_layers,
        "measured_layers": subject.denoiser.num_layers,
        "version": __version__,
        "cpu": cpu_name(),
        "isa": subject.backend.isa,
        "threads": subject.backend.threads,
        "activations": options["activations"],
        "kv": subject.backend.kv,
        "others_cpu_share": others,
        "warm_ups": WARM_UPS,
        "repeats": plan.repeats,
        "clock_ghz": peak.clock_ghz,
        "int8_peak_gops": peak.int8_gops,
        "int8_peak_best_gops": best_peak(
            cpu_name(), subject.backend.isa, subject.backend.threads, peak.int8_gops
        ),
        "float_peak_gops": peak.float_gops,
        "bf16_peak_gops": peak.bf16_gops,
        "measurements": measurements,
        "generation": None,
        "peak_rss_bytes": measurements[-1]["peak_rss_bytes"],
        **({} if peer is None else peer.about),
    }


def _measurements(
    subject: Subject, peer: Peer | None, plan: Plan, peak: PeakRates
) -> Iterator[dict[str, Any]]:
    from edge.bench import measure
    from edge.versus import measure_pairs

    if peer is None:
        yield from map(asdict, measure(subject, plan, peak))
    else:
        for measurement, comparison in measure_pairs(subject, peer, plan, peak):
            yield {**asdict(measurement), **asdict(comparison)}


@contextmanager
def _progress() -> Iterator[Show]:
    """Yield what shows a line on a terminal; nothing is redrawn while something is measured."""
    if not stderr_can_redraw():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as live:
        yield lambda line: live.update(Text(line, style="dim"), refresh=True)


def _print_void(report: dict[str, Any]) -> None:
    from edge.peak_record import LEAST_SHARE

    share = report["int8_peak_gops"] / report["int8_peak_best_gops"]
    if share < LEAST_SHARE:
        click.echo(
            f"void: the int8 peak of this run is {share:.0%} of the best that this machine has "
            f"shown, {report['int8_peak_best_gops']:.0f} Gop/s; repeat it when the machine is quiet"
        )


def _print(report: dict[str, Any]) -> None:
    weights = "random weights" if report["random_weights"] else f"sha256 {report['sha256'][:12]}"
    click.echo(
        f"{without_controls(report['name'])}, {report['type']}, {weights}; {report['cpu']}, "
        f"{report['isa']}, {report['threads']} threads, {report['activations']} activations, "
        f"{report['kv']} keys and values"
    )
    click.echo(
        f"peak {report['int8_peak_gops']:.0f} int8, {report['bf16_peak_gops']:.0f} bf16 and "
        f"{report['float_peak_gops']:.0f} float Gop/s at {report['clock_ghz']:.2f} GHz; "
        f"times in ms, each the median of {report['repeats']} steps"
    )
    _print_void(report)
    if report["others_cpu_share"] >= BUSY:
        click.echo(
            f"other programs took {report['others_cpu_share']:.0%} of the processor just before: "
            "expect better on a quiet machine"
        )
    if report["measured_layers"] != report["num_layers"]:
        click.echo(f"{report['measured_layers']} layers measured, scaled to {report['num_layers']}")
    click.echo("")
    print_table(report["measurements"])
    click.echo("")
    click.echo("of peak: rates of the linear layers by the int8, of attention by the bf16 peak")
    click.echo("x best: the step's time by the least that both peaks allow")
    if report["measurements"][0]["experts"]:
        click.echo(
            "experts: of a layer, those that have rows; of bound: the least time of the linear "
            "layers, to compute or to read their weights once, by the time they took"
        )
    if "llama_version" in report:
        click.echo(about_llama(report))
    if stats := report["generation"]:
        click.echo(
            f"a short answer: {stats['tokens']} tokens in {stats['nfe']} forwards, "
            f"{stats['tokens_per_forward']:.2f} tokens per forward, "
            f"{stats['tokens_per_s']:.1f} tokens/s"
        )
    click.echo(f"peak memory: {size_in_words(report['peak_rss_bytes'])}")

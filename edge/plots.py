"""Pictures of measurements; matplotlib (extra ``plot``) is loaded when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from os import PathLike, fspath
from typing import Any

from edge.errors import RequestError
from edge.formats.atomic_file import replacing
from edge.frontier import Point

_BUDGETS, _STEPS, _FULL = "#1f6feb", "#d1495b", "#2b2b2b"


def draw_frontier(points: Sequence[Point], title: str, path: str | PathLike[str]) -> None:
    """Draw quality against median latency to a file; raises like ``check_picture``, OSError."""
    check_picture(path)
    figure, (axes,) = new_figure()
    for kind, color, name in (
        ("budget", _BUDGETS, "with a latency budget"),
        ("steps", _STEPS, "with a number of steps"),
    ):
        _draw_kind(axes, [p for p in points if p.setting.kind == kind], color, name)
    for full in (p for p in points if p.setting.kind == "full"):
        axes.axhline(100 * full.quality, color=_FULL, linewidth=0.8, linestyle=":")
        axes.plot(full.elapsed_ms_p50, 100 * full.quality, "D", color=_FULL, label="full run")
    _scale_in_plain_numbers(axes)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="median latency, ms", ylabel="right answers, %", title=title)
    axes.legend(frameon=False, loc="lower right")
    write_figure(figure, path)


def new_figure(panels: int = 1) -> tuple[Any, list[Any]]:
    """Return an empty figure and the axes of its panels, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 if panels == 1 else 5.4 * panels, 4.4), dpi=160)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    all_axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, which="both", linewidth=0.6)
    return figure, all_axes


def write_figure(figure: Any, path: str | PathLike[str]) -> None:
    """Write a figure to a file, whole or not at all; raises like ``check_picture``, OSError."""
    picture = check_picture(path)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format=picture)


def _scale_in_plain_numbers(axes: Any) -> None:
    """A logarithmic x axis with ticks like 10, 20, 50, 100."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_kind(axes: Any, points: Sequence[Point], color: str, name: str) -> None:
    if not points:
        return
    ordered = sorted(points, key=lambda point: point.elapsed_ms_p50)
    times = [point.elapsed_ms_p50 for point in ordered]
    quality = [100 * point.quality for point in ordered]
    errors = [100 * point.quality_error for point in ordered]
    axes.fill_between(
        times,
        [q - e for q, e in zip(quality, errors, strict=True)],
        [q + e for q, e in zip(quality, errors, strict=True)],
        color=color,
        alpha=0.15,
        linewidth=0,
    )
    axes.plot(times, quality, "o-", color=color, markersize=5, linewidth=1.6, label=name)
    for point, x, y in zip(ordered, times, quality, strict=True):
        if point.setting.steps is not None:
            axes.annotate(
                str(point.setting.steps),
                (x, y),
                xytext=(5, -11),
                textcoords="offset points",
                color=color,
                fontsize=8,
            )


def check_picture(path: str | PathLike[str]) -> str:
    """Return the kind of picture that a file's name asks for.

    Raises RequestError for one that cannot be drawn, or when matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        hint = "pip install 'edge-denoise[plot]'"
        raise RequestError("matplotlib is not installed", hint=hint)
    kind = fspath(path).rpartition(".")[2].lower()
    if kind not in ("png", "svg"):
        raise RequestError(f"a picture of kind {kind!r}", path=path, hint="name it .png or .svg")
    return kind

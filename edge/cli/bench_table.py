"""The table of ``edge bench``: a line per measurement, times in ms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

_PARTS = ("gemm", "attention", "quantize", "head", "other")


def print_table(measurements: Sequence[dict[str, Any]]) -> None:
    """Print what ``edge.bench.Measurement`` holds, and ``edge.versus.Comparison`` where it is."""
    rows = [_cells(measurement) for measurement in measurements]
    widths = {name: max(5, len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    for row in ({name: name for name in widths}, *rows):
        click.echo(" ".join(f"{row[name]:>{width}}" for name, width in widths.items()))


def about_llama(report: dict[str, Any]) -> str:
    """Which llama.cpp, and how its figures came about."""
    measurements = report["measurements"]
    threads = sorted({each["llama_threads"] for each in measurements})
    return (
        f"llama: llama-cpp-python {report['llama_version']}, {measurements[0]['llama_type']}, "
        f"fastest with {' or '.join(map(str, threads))} threads, OpenMP's wait policy "
        f"{report['llama_wait_policy']}; ratio: llama.cpp's time by ours, the median of "
        f"{report['repeats']} pairs"
    )


def _cells(measurement: dict[str, Any]) -> dict[str, str]:
    return {
        "rows": str(measurement["rows"]),
        "context": str(measurement["context"]),
        "step": _ms(measurement["step_ms"]),
        "p95": _ms(measurement["step_ms_p95"]),
        **{part: _ms(measurement[f"{part}_ms"]) for part in _PARTS},
        "of peak": _shares(measurement["gemm_peak_share"], measurement["attention_peak_share"]),
        "x best": f"{measurement['step_over_peak_time']:.2f}",
        **(_cells_of_experts(measurement["experts"]) if measurement.get("experts") else {}),
        **(_cells_of_llama(measurement) if "llama_ms" in measurement else {}),
    }


def _cells_of_llama(measurement: dict[str, Any]) -> dict[str, str]:
    return {
        "llama": _ms(measurement["llama_ms"]),
        "ratio": f"{measurement['llama_over_ours']:.2f}",
    }


def _cells_of_experts(experts: dict[str, float]) -> dict[str, str]:
    return {
        "experts": f"{experts['touched']:.0f}",
        "rows each": f"{experts['rows_per_expert']:.1f}",
        "of bound": f"{100 * experts['bound_share']:.0f}%",
    }


def _shares(gemm: float, attention: float) -> str:
    return f"{100 * gemm:.0f}/{100 * attention:.0f}%"


def _ms(value: float) -> str:
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"

"""``edge run``: options that stop early, spend spare steps, give credit, reuse approximately."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import edge as library
from edge.cli.answering import stats_line
from edge.cli.prompt import EXAMPLE

Edge = Callable[..., Any]
DYNAMIC = ("--sampler", "low_confidence_dynamic")
# Arguments, and the same in Python.
REQUESTS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("--sampler", "block_refinement", "--threshold", "0.8"), {"threshold": 0.8}),
    (("--sampler", "hierarchical", "--segment-threshold", "0.7"), {"segment_threshold": 0.7}),
    ((*DYNAMIC, "--credit"), {"credit": True}),
    ((*DYNAMIC, "--remask", "conf"), {"remask": "conf"}),
    (("--early-stop", "stable"), {"early_stop": "stable"}),
    (("--early-stop", "schedule", "--steps", "12"), {"early_stop": "schedule", "steps": 12}),
    (("--cache", "exact", "--no-fused"), {"cache": "exact", "fused": False}),
]


@pytest.mark.parametrize(("args", "options"), REQUESTS)
def test_every_option_reaches_the_library(
    edge: Edge, args: tuple[str, ...], options: dict[str, Any]
) -> None:
    answer = json.loads(edge("run", "--json", *args, EXAMPLE).out)
    sampler = args[1] if args[0] == "--sampler" else None
    with library.load() as model:
        same = model.generate(EXAMPLE, sampler=sampler, **options)
    assert answer["ids"] == same.ids
    for name in ("sampler", "nfe", "forced_tokens", "remasked_tokens", "refreshes", "cache"):
        assert answer[name] == getattr(same.stats, name), name


def test_spare_time_of_a_budget_decides_anew(edge: Edge) -> None:
    asked = ("run", "--json", "--budget", "100s", *DYNAMIC, "--threshold", "0.5", EXAMPLE)
    plain, spent = (json.loads(edge(*asked, "--remask", how).out) for how in ("none", "conf"))
    assert spent["remasked_tokens"] > plain["remasked_tokens"] == 0
    assert spent["nfe"] > plain["nfe"]
    assert spent["overshoot_ms"] < 0
    assert spent["refresh_ms"] == 0


def test_options_come_from_the_environment(edge: Edge) -> None:
    plain = json.loads(edge("run", "--json", EXAMPLE).out)
    early = json.loads(edge("run", "--json", EXAMPLE, EDGE_EARLY_STOP="stable").out)
    assert early["nfe"] < plain["nfe"]
    assert early["forced_tokens"] > plain["forced_tokens"] == 0
    refused = edge("run", EXAMPLE, EDGE_CACHE="dual")
    assert refused.code == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--early-stop", "soon"), ("--early-stop", "'soon'", "'schedule'")),
        (("--remask", "all"), ("--remask", "'all'", "'conf'")),
        (("--cache", "prefix"), ("--cache", "'prefix'", "'dual'")),
        (("--cache", "dual"), ("cache is dual, but this model refines its whole canvas at once",)),
        (("--cache-window", "4"), ("cache_window is given, but cache is exact",)),
        (("--cache-window", "0"), ("--cache-window", "x>=1")),
        (("--credit", "--temperature", "1"), ("credit is given, but temperature is not 0",)),
        (("--segment-threshold", "0.3"), ("segment_threshold has no effect", "hierarchical")),
        (
            ("--segment-threshold", "1.5", "--sampler", "hierarchical"),
            ("segment_threshold is 1.5",),
        ),
        (("--fused",), ("fused is asked for, but this model",)),
    ],
)
def test_what_cannot_be_served_is_one_line(
    edge: Edge, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    ended = edge("run", *args, EXAMPLE)
    assert ended.out == ""
    assert ended.err.startswith("edge: error: ")
    assert ended.err.count("\n") == 1
    assert all(word in ended.err for word in words), ended.err
    assert ended.code == 2


def test_an_approximate_cache_is_always_reported() -> None:
    with library.load() as model:
        exact = model.generate(EXAMPLE, steps=1)

    def line(**changes: Any) -> str:
        return stats_line(replace(exact, stats=replace(exact.stats, **changes)))

    assert "cache" not in line()
    dual = {"cache": "dual", "refreshes": 3}
    assert line(**dual, cache_top1_disagreement=0.125).endswith(
        ", dual cache with 3 refreshes, which changed 12.5% of the candidates"
    )
    assert line(**dual, cache_top1_disagreement=None).endswith(" 3 refreshes")

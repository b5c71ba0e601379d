"""Who may import whom: rooms import downwards only."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room imports rooms of earlier lines, and itself.
LADDER = (
    {"errors", "_native", "budget", "machine", "draft_checks"},
    {"formats", "exit_codes", "canvas", "result", "cache_folder", "holes"},
    {"key_reader"},
    {"experts", "positions"},
    {
        "config",
        "tasks",
        "denoisers",
        "template",
        "template_process",
        "vocabulary",
        "guesses",
        "pack_cache",
        "peak_record",
    },
    {"backends", "samplers", "tokenizer", "shapes", "dual_cache", "costs", "info", "drafting"},
    {"credit", "prefix"},
    {"expert_bench", "engine", "random_model", "early_stop", "remask", "profile"},
    {"request", "conversation", "trunk"},
    {"plan", "stopwatch"},
    {"timing", "prices", "answer"},
    {"paced"},
    {"pacing", "in_order_pacing"},
    {"tally"},
    {"commits"},
    {"reporting", "editing"},
    {"loop"},
    {"generator", "in_order"},
    {"filling"},
    {"choices"},
    {"prompting"},
    {"model"},
    {"bench", "frontier"},
    {"plots", "versus"},
    {""},  # edge itself: the public names
    {"cli"},
    {"__main__"},
)
STEP = {room: step for step, rooms in enumerate(LADDER) for room in rooms}
# These rooms import nothing else: of edge, or from elsewhere.
ONLY = {
    "samplers": {"numpy", "edge.canvas", "edge.errors", "edge.samplers"},
    "tasks": {"edge.errors", "edge.tasks"},
    "formats": {"numpy", "psutil", "edge._native", "edge.errors", "edge.formats"},
    "errors": set[str](),
    "budget": set[str](),
}
CONVERT_MAY = {
    "edge.formats",
    "edge.errors",
    "edge._native",
    "edge.exit_codes",
    "edge.machine",
    "edge.positions",
}
RUN_MODELS = {"verify.py", "compare.py", "canvases.py"}  # of convert: these may use all of edge
READS_SETTINGS = {"model_file.py"}  # of convert: may use edge.config
NEVER = {"convert", "torch", "transformers", "optimum", "onnx"}
KERNELS_MAY = re.compile(
    r'"kernels/\w+(/\w+)?\.h"|<(immintrin|arm_neon)\.h>|<(c\w+|limits)>'  # limits: constants only
)


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports anywhere, ``from edge import model`` as edge.model."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            rooms = [alias.name for alias in node.names if alias.name in STEP]
            yield from ([f"edge.{room}" for room in rooms] if module == "edge" else [module])
            if module == "edge" and len(rooms) < len(node.names):
                yield module


def top(name: str) -> str:
    """``edge.formats.keys`` as edge.formats, ``numpy.typing`` as numpy."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "edge" else 1])


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files("edge"), ids=lambda path: str(path.relative_to(ROOT)))
def test_edge_imports_downwards(path: Path) -> None:
    room = path.relative_to(ROOT / "edge").parts[0].removesuffix(".py").replace("__init__", "")
    names = {top(name) for name in imports(path)}
    assert not names & NEVER
    for other in {name.partition(".")[2] for name in names if name.split(".")[0] == "edge"}:
        assert other == room or STEP[other] < STEP[room], f"{room} imports {other}"
    if room in ONLY:
        assert {name for name in names if name not in sys.stdlib_module_names} <= ONLY[room]


@pytest.mark.parametrize("path", files("convert"), ids=lambda path: str(path.relative_to(ROOT)))
def test_convert_knows_the_file_format_only(path: Path) -> None:
    of_edge = {top(name) for name in imports(path) if name.split(".")[0] == "edge"}
    runs_models = path.name in RUN_MODELS or path.parent.name == "calibration"
    more = {"edge.config"} if path.name in READS_SETTINGS else set()
    assert of_edge <= CONVERT_MAY | more or runs_models


def test_only_backends_know_other_engines() -> None:
    for path in files("edge"):
        if path.parent.name != "backends":
            assert not {top(name) for name in imports(path)} & {"onnxruntime", "llama_cpp"}, path


@pytest.mark.parametrize("path", sorted((ROOT / "native/kernels").rglob("*.*")), ids=str)
def test_kernels_include_kernels_and_intrinsics_only(path: Path) -> None:
    included = re.findall(r"^\s*#\s*include\s+(\S+)", path.read_text(), re.MULTILINE)
    assert [name for name in included if not KERNELS_MAY.fullmatch(name)] == []

"""How many Sudoku puzzles a denoiser solves, by the number of denoising steps it may take.

    python examples/bench/sudoku_solve_rate.py
    python examples/bench/sudoku_solve_rate.py --sampler low_confidence_dynamic --threshold 0.97
    python examples/bench/sudoku_solve_rate.py --sampler factor --option remask=conf
    python examples/bench/sudoku_solve_rate.py --checkpoint DIR --type f32 --type q8_0 --markdown
    python examples/bench/sudoku_solve_rate.py --count 3000 --mix 164/84/52
    python examples/bench/sudoku_solve_rate.py --count 10000 --givens-mix 30/40/30 --threshold 0.97

Solved means that all 81 cells equal the only solution. The grades tell which technique a puzzle
needs (see sudoku_puzzles.py), the bands how many givens it has. Every model is measured in a
process of its own, so that its peak memory is its own. examples/train draws its puzzles by another
generator from another random stream.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

from report import print_table
from sudoku_puzzles import BANDS, GRADES, Puzzle, puzzles

from edge.backends.native import KV_FORMATS
from edge.machine import cpu_name

ALL_STEPS = "all"  # one cell per step
_OWN = ("steps", "sampler", "threshold")  # options with a column of their own
DEFAULT_STEPS = ("1", "2", "4", "8", "16", "32", ALL_STEPS)
THRESHOLD_SAMPLER = "low_confidence_dynamic"  # for thresholds without --sampler


@dataclass(frozen=True)
class Plan:
    """What every model is asked to do."""

    count: int
    seed: int
    mix: tuple[int, ...] | None  # of the grades, easiest first; None: as they come
    givens_mix: tuple[int, ...] | None  # of the bands of givens, most givens first
    steps: tuple[str, ...]
    activations: str
    kv: str
    threads: int | None
    sampler: str | None
    thresholds: tuple[float, ...]
    options: dict[str, Any]  # the same for every request

    def puzzles(self) -> list[Puzzle]:
        if self.givens_mix:
            return self._mixed(zip(BANDS, self.givens_mix, strict=True), lambda p: p.band)
        if self.mix:
            return self._mixed(zip(GRADES, self.mix, strict=True), lambda p: p.grade)
        return list(islice(puzzles(self.seed), self.count))

    def _mixed(
        self, shares: Iterable[tuple[str, int]], kind: Callable[[Puzzle], str | None]
    ) -> list[Puzzle]:
        parts = dict(shares)
        missing = {name: round(self.count * n / sum(parts.values())) for name, n in parts.items()}
        chosen = []
        for puzzle in puzzles(self.seed):
            if not any(missing.values()):
                break
            if missing.get(kind(puzzle)):
                missing[kind(puzzle)] -= 1
                chosen.append(puzzle)
        return chosen

    def requests(self) -> Iterator[dict[str, Any]]:
        """The options of ``Model.generate`` of each row; what is not set is the file's default."""
        for options in self._rows():
            chosen = {name: value for name, value in options.items() if value is not None}
            yield {**chosen, **self.options}

    def _rows(self) -> Iterator[dict[str, Any]]:
        steps = [None if steps == ALL_STEPS else int(steps) for steps in self.steps]
        if self.sampler:
            for threshold in self.thresholds or (None,):
                for n in steps:
                    yield {"steps": n, "sampler": self.sampler, "threshold": threshold}
            return
        for n in steps:
            yield {"steps": n}
        for threshold in self.thresholds:
            yield {"sampler": THRESHOLD_SAMPLER, "threshold": threshold}


def measure(source: str, plan: Plan, chosen: Sequence[Puzzle]) -> dict[str, Any]:
    """Facts about the model and one row per request; meant for a process of its own."""
    import edge

    engine = {"threads": plan.threads, "activations": plan.activations, "kv": plan.kv}
    with edge.load(source, **engine) as model:
        model.generate(chosen[0].givens, steps=1)  # pages the file in, builds the kernels' copies
        return {
            "model": Path(source).stem,
            "type": model.info.main_type,
            "sha256": model.info.file_sha256(),
            "size_bytes": model.info.size_bytes,
            "isa": model.isa,
            "kv": model.kv,
            "threads": model.threads,
            "rows": [_row(model, options, chosen) for options in plan.requests()],
        }


def _row(model: Any, options: dict[str, Any], chosen: Sequence[Puzzle]) -> dict[str, Any]:
    label = f"{model.info.name}, {options.get('steps', ALL_STEPS)} steps"
    results = [model.generate(p.givens, **options) for p in _with_progress(chosen, label)]
    solved = [r.text == p.solution for r, p in zip(results, chosen, strict=True)]
    stats = [result.stats for result in results]
    return {
        "steps": options.get("steps", ALL_STEPS),
        "sampler": stats[-1].sampler,
        "threshold": options.get("threshold"),
        "options": {name: value for name, value in options.items() if name not in _OWN},
        "solve_rate": fmean(solved),
        "solve_rate_by_grade": _by_kind(GRADES, [p.grade for p in chosen], solved),
        "solve_rate_by_givens": _by_kind(BANDS, [p.band for p in chosen], solved),
        "mean_steps": fmean(s.steps for s in stats),
        "mean_nfe": fmean(s.nfe for s in stats),
        "median_ms": median(s.elapsed_ms for s in stats),
        "peak_rss_bytes": stats[-1].peak_rss_bytes,
    }


def _by_kind(
    names: Iterable[str], kinds: Sequence[str | None], solved: Sequence[bool]
) -> dict[str, float]:
    pairs = list(zip(kinds, solved, strict=True))
    by_kind = {name: [right for kind, right in pairs if kind == name] for name in names}
    return {name: fmean(rights) for name, rights in by_kind.items() if rights}


def _with_progress(chosen: Sequence[Puzzle], label: str) -> Iterator[Puzzle]:
    """The puzzles, with a line on stderr that says how far we are, if somebody watches."""
    watched = sys.stderr.isatty()
    for number, puzzle in enumerate(chosen, start=1):
        if watched:
            print(f"\r\x1b[K{label}: {number}/{len(chosen)}", end="", file=sys.stderr, flush=True)
        yield puzzle
    if watched:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def convert_checkpoint(folder: str, target: str, type_name: str) -> None:
    """Write the checkpoint as a model file; meant for a process of its own."""
    import convert

    convert.convert(folder, target, type=type_name)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` returns; an EdgeError there ends this program with its one line."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        answer, error = pool.submit(_guarded, function, *arguments).result()
    if error is not None:
        sys.exit(f"error: {error}")
    return answer


def _guarded(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    from edge.errors import EdgeError

    try:
        return function(*arguments), None
    except EdgeError as error:
        return None, str(error)


def _sources(arguments: argparse.Namespace, folder: str) -> Iterator[str]:
    """What to measure; a converted file is written to ``folder`` when its turn comes."""
    yield from arguments.model or ([] if arguments.checkpoint else ["sudoku"])
    for type_name in arguments.type if arguments.checkpoint else ():
        target = str(Path(folder) / f"{Path(arguments.checkpoint).resolve().name}-{type_name}.gguf")
        in_own_process(convert_checkpoint, arguments.checkpoint, target, type_name)
        yield target


def _print_report(report: dict[str, Any], *, markdown: bool) -> None:
    grades = [grade for grade, count in report["puzzles_by_grade"].items() if count]
    bands = [band for band, count in report["puzzles_by_givens"].items() if count]
    if not report["givens_mix"]:
        bands = []
    counts = ", ".join(f"{report['puzzles_by_grade'][grade]} {grade}" for grade in grades)
    models = report["models"]
    threads = models[0]["threads"]
    print(
        f"{report['count']} puzzles of seed {report['seed']} ({counts}; {report['mean_holes']:.1f} "
        f"holes on average), {report['cpu']}, {threads} thread{'s' * (threads > 1)}, "
        f"{models[0]['isa']}, {report['activations']} activations"
    )
    print()
    headers = ["model", "type", "sha256", "sampler", "steps", "solved", *grades, *bands]
    headers += ["mean steps", "mean NFE", "median ms", "peak MiB"]
    cells = [_cells(model, row, grades, bands) for model in models for row in model["rows"]]
    print_table(headers, cells, markdown=markdown)


def _cells(
    model: dict[str, Any], row: dict[str, Any], grades: Sequence[str], bands: Sequence[str]
) -> list[str]:
    return [
        model["model"],
        model["type"],
        model["sha256"][:12],
        _rule(row),
        str(row["steps"]),
        f"{row['solve_rate']:.1%}",
        *(f"{row['solve_rate_by_grade'][grade]:.1%}" for grade in grades),
        *(f"{row['solve_rate_by_givens'][band]:.1%}" for band in bands),
        f"{row['mean_steps']:.2f}",
        f"{row['mean_nfe']:.2f}",
        f"{row['median_ms']:.1f}",
        f"{row['peak_rss_bytes'] / 2**20:.0f}",
    ]


def _rule(row: dict[str, Any]) -> str:
    threshold = "" if row["threshold"] is None else f" {row['threshold']:g}"
    options = "".join(f" {name}={value}" for name, value in row["options"].items())
    return f"{row['sampler']}{threshold}{options}"


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"wanted NAME=VALUE; got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _steps(text: str) -> str:
    if text != ALL_STEPS and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"wanted a number from 1, or {ALL_STEPS}; got {text!r}")
    return text


def _mix(text: str) -> tuple[int, ...]:
    parts = tuple(int(part) for part in text.split("/"))
    if len(parts) != len(GRADES) or min(parts) < 0 or not sum(parts):
        raise ValueError(text)
    return parts


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Sudoku solve rate by denoising steps.")
    add = parser.add_argument
    add("--model", action="append", help="file or embedded name; repeatable (default sudoku)")
    add("--checkpoint", help="folder to convert to temporary files, one per --type")
    add("--type", action="append", help="type of the conversion; repeatable (default f32)")
    add("--steps", action="append", type=_steps, help="a number or 'all'; repeatable")
    add("--count", type=int, default=300, help="number of puzzles (default 300)")
    add("--seed", type=int, default=0, help="of the puzzles (default 0)")
    mixes = parser.add_mutually_exclusive_group()
    mixes.add_argument(
        "--mix", type=_mix, help="shares of easy/medium/hard, e.g. 164/84/52 (default: as drawn)"
    )
    mixes.add_argument(
        "--givens-mix", type=_mix, help="shares of 36+/30-35/24-29 givens, e.g. 30/40/30"
    )
    add("--activations", choices=("int8", "f32"), default="int8", help="default int8")
    add("--kv", choices=KV_FORMATS, default="auto", help="default auto")
    add("--threads", type=int, help="default: the library's")
    add("--sampler", help="default: the file's; with one, --steps is 'all' unless given")
    add(
        "--threshold",
        action="append",
        type=float,
        default=[],
        help=f"of the sampler; without one, a row more, of {THRESHOLD_SAMPLER}; repeatable",
    )
    add(
        "--option",
        action="append",
        type=_option,
        default=[],
        help="further option of the request, NAME=VALUE, e.g. credit=true; repeatable",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object")
    output.add_argument("--markdown", action="store_true", help="the table in Markdown")
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error(f"--count must be at least 1; got {arguments.count}")
    if arguments.type and not arguments.checkpoint:
        parser.error("--type is the type of a conversion: give --checkpoint as well")
    arguments.type = arguments.type or ["f32"]
    arguments.steps = arguments.steps or ([ALL_STEPS] if arguments.sampler else DEFAULT_STEPS)
    return arguments


def _plan(arguments: argparse.Namespace) -> Plan:
    return Plan(
        count=arguments.count,
        seed=arguments.seed,
        mix=arguments.mix,
        givens_mix=arguments.givens_mix,
        steps=tuple(arguments.steps),
        activations=arguments.activations,
        kv=arguments.kv,
        threads=arguments.threads,
        sampler=arguments.sampler,
        thresholds=tuple(arguments.threshold),
        options=dict(arguments.option),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = _arguments(argv)
    plan = _plan(arguments)
    chosen = plan.puzzles()
    counts = Counter([p.grade for p in chosen] + [p.band for p in chosen])
    with tempfile.TemporaryDirectory() as folder:
        models = [in_own_process(measure, s, plan, chosen) for s in _sources(arguments, folder)]
    report = {
        "schema": 1,
        **asdict(plan),
        "cpu": cpu_name(),
        "puzzles_by_grade": {grade: counts[grade] for grade in GRADES},
        "puzzles_by_givens": {band: counts[band] for band in BANDS},
        "mean_holes": fmean(81 - puzzle.num_givens for puzzle in chosen),
        "models": models,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report, markdown=arguments.markdown)


if __name__ == "__main__":
    main()

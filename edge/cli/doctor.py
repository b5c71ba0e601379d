"""``edge doctor``: what this machine offers, and whether the program computes rightly on it."""

from __future__ import annotations

import json as json_format
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from edge.cli.options import json_option
from edge.cli.output import print_object, print_rows, size_in_words
from edge.errors import NumericError
from edge.exit_codes import verbose_option
from edge.machine import cpu_name

SELF_TEST_SECONDS = 120
SELF_TEST_OPTIONS = ("--model", "sudoku", "--steps", "8", "--json")


@dataclass(frozen=True)
class SelfTest:
    """One instruction set's attempt at the test puzzle."""

    isa: str
    passed: bool
    detail: str


@click.command(name="doctor")
@json_option
@verbose_option
def command(json: bool) -> None:
    """Check this machine: processor, memory, limits, and a self-test.

    The self-test solves one puzzle with every instruction set the processor has,
    each in a process of its own; all must give the same tokens. A failure exits
    with 70.

    \b
    Examples:
      edge doctor
      edge doctor --json
      EDGE_ISA=generic edge doctor     what if the fast kernels were absent
    """
    facts = _facts()
    tests = list(_self_test(facts["supported_isas"], facts["edge_isa"]))
    if json:
        print_object({**facts, "self_test": [asdict(test) for test in tests]})
    else:
        _print(facts, tests)
    failed = [test.isa for test in tests if not test.passed]
    if failed:
        raise NumericError(
            f"the self-test failed for {', '.join(failed)}",
            hint="report it, with what 'edge doctor --json' prints",
        )


def _facts() -> dict[str, Any]:
    import psutil

    from edge import __version__, _native
    from edge.backends.cores import default_threads
    from edge.backends.native import ISA_VARIABLE
    from edge.cache_folder import cache_folder
    from edge.pack_cache import panel_folder, side_files

    isas = _native.supported_isas()
    override = os.environ.get(ISA_VARIABLE) or None
    memory = psutil.virtual_memory()
    packed = [status.st_size for _, status in side_files()]
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "isa": override or isas[0],
        "supported_isas": isas,
        "edge_isa": override,
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "default_threads": default_threads(),
        "memory_total_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "cache_folder": cache_folder(),
        "cache_folder_exists": cache_folder().is_dir(),
        "panel_folder": panel_folder(),
        "num_side_files": len(packed),
        "side_file_bytes": sum(packed),
        "limits": _native.limits(),
    }


def _self_test(isas: list[str], override: str | None) -> Iterator[SelfTest]:
    """Yield one result per instruction set, the overriding one included even if unknown."""
    expected: list[int] | None = None
    for isa in dict.fromkeys([*isas, *([override] if override else [])]):
        answer = _solve(isa)
        if isinstance(answer, str):
            yield SelfTest(isa, False, answer)
            continue
        expected = expected or answer["ids"]
        if not answer["verified"]:
            yield SelfTest(isa, False, "the puzzle was not solved")
        elif answer["ids"] != expected:
            yield SelfTest(isa, False, f"other tokens than {isas[0]}")
        else:
            yield SelfTest(isa, True, f"solved in {answer['elapsed_ms']:.0f} ms")


def _solve(isa: str) -> dict[str, Any] | str:
    """Solve the puzzle in a process of its own; return the answer, or what went wrong."""
    import edge
    from edge.cli.prompt import EXAMPLE

    environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_")}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge", "run", *SELF_TEST_OPTIONS, EXAMPLE],
            env={**environment, "EDGE_ISA": isa},
            cwd=Path(edge.__file__).parents[1],  # -m looks there first: this very package
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SELF_TEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SELF_TEST_SECONDS} s"
    if done.returncode not in (0, 8):
        message = done.stderr.decode(errors="replace").strip().splitlines()
        return message[-1] if message else f"the process ended with {done.returncode}"
    answer: dict[str, Any] = json_format.loads(done.stdout)
    return answer


def _print(facts: dict[str, Any], tests: list[SelfTest]) -> None:
    physical, logical = facts["physical_cores"], facts["logical_cores"]
    override = f" (EDGE_ISA={facts['edge_isa']})" if facts["edge_isa"] else ""
    print_rows(
        {
            "version": facts["version"],
            "python": facts["python"],
            "platform": facts["platform"],
            "cpu": facts["cpu"],
            "isa": f"{facts['isa']}{override} of {', '.join(facts['supported_isas'])}",
            "cores": f"{physical or 'unknown'} physical, {logical} logical",
            "threads": f"{facts['default_threads']} by default",
            "memory": f"{size_in_words(facts['memory_total_bytes'])}, "
            f"{size_in_words(facts['memory_available_bytes'])} available",
            "cache": f"{facts['cache_folder']}"
            + ("" if facts["cache_folder_exists"] else " (not there yet)"),
            "packed weights": f"{size_in_words(facts['side_file_bytes'])} in "
            f"{facts['num_side_files']} files; delete {facts['panel_folder']} to clear them",
        }
    )
    click.echo("limits of the file reader")
    print_rows({f"  {name}": f"{limit:,}" for name, limit in facts["limits"].items()})
    click.echo("self-test")
    print_rows(
        {
            f"  {test.isa}": f"{'passed' if test.passed else 'FAILED'}: {test.detail}"
            for test in tests
        }
    )

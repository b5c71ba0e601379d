"""Help pages: what they say, what they load, and that every option has its variable.

``UPDATE_HELP_PAGES=1 pytest tests/cli/test_help.py`` writes the pages anew.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edge.cli.group import COMMANDS, group

PAGES = Path(__file__).parent / "help"


Edge = Callable[..., Any]


def get_command(name: str) -> click.Command:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


@pytest.mark.parametrize("name", ["edge", *COMMANDS])
def test_help_pages_are_as_written(name: str) -> None:
    args = ["--help"] if name == "edge" else [name, "--help"]
    page = CliRunner().invoke(group, args, prog_name="edge", color=False).output
    golden = PAGES / f"{name}.txt"
    if os.environ.get("UPDATE_HELP_PAGES"):
        golden.write_text(page, encoding="utf-8")
    # Versions of click differ in where they fold lines, so only the words count.
    assert page.split() == golden.read_text(encoding="utf-8").split()


def test_every_help_page_shows_examples() -> None:
    for name in COMMANDS:
        assert f"  edge {name}" in (get_command(name).help or "").partition("Examples:")[2]


def loaded_by(*args: str, folder: Path) -> set[str]:
    """Return the modules that ``python ARGS`` loads."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}


def test_the_help_page_loads_nothing_but_click(tmp_path: Path) -> None:
    loaded = loaded_by("-m", "edge", "--help", folder=tmp_path)
    installed = set(importlib.metadata.packages_distributions()) - set(sys.stdlib_module_names)
    foreign = {name for name in loaded if name.partition(".")[0] in installed}
    foreign -= loaded_by("-c", "pass", folder=tmp_path)  # what pip's hooks load for any program
    allowed = ("click", "edge.cli", "edge.errors", "edge.exit_codes")
    assert {name for name in foreign if not name.startswith(allowed)} <= {"edge"}


def long_name(option: click.Option) -> str:
    return next(name for name in option.opts if name.startswith("--"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_variable_of_its_own_name(name: str) -> None:
    command = get_command(name)
    context = click.Context(command, info_name=name, **command.context_settings)
    for option in command.params:
        if isinstance(option, click.Option):
            variable = "EDGE_" + long_name(option)[2:].upper().replace("-", "_")
            prefix = context.auto_envvar_prefix
            assert option.name is not None
            assert f"{prefix}_{option.name.upper()}" == variable
            assert option.allow_from_autoenv


def test_options_of_one_name_mean_the_same_in_every_command() -> None:
    seen: dict[str, Any] = {}
    for command in map(get_command, COMMANDS):
        for option in command.params:
            if isinstance(option, click.Option):
                same = (option.opts, option.secondary_opts, option.metavar, option.type.name)
                assert seen.setdefault(long_name(option), same) == same


def test_the_version_is_the_package_s(edge: Edge) -> None:
    import edge as package

    done = edge("--version", EDGE_VERSION="119.0")  # not ours: must not disturb
    assert (done.code, done.out) == (0, f"edge {package.__version__}\n")


def test_no_command_is_a_usage_error_that_shows_the_help(edge: Edge) -> None:
    done = edge()
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines()[-1] == "edge: error: no command given - see 'edge --help'"
    assert "Commands:" in done.err


def test_an_unknown_command_is_a_usage_error(edge: Edge) -> None:
    done = edge("fly")
    assert done.code == 2
    assert done.err == "edge: error: no such command 'fly' - see 'edge --help'\n"

"""README.md stays true: its commands run, its puzzle and its figures are what is printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge.exit_codes import EXIT_CODES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BENCH = ROOT / "examples/bench"


def output_of(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True, timeout=600
    )


def first_command() -> str:
    match = re.search(r'^pip install \. && edge run "(.*)"$', README, re.MULTILINE)
    assert match
    return match[1]


def test_the_puzzle_is_the_generators_first_easy_one() -> None:
    command = (BENCH / "sudoku_puzzles.py", "--count", "1", "--seed", "0", "--grade", "easy")
    assert output_of(*command).stdout.split()[0] == first_command()


def test_the_first_command_prints_a_verified_grid() -> None:
    done = output_of("-m", "edge", "run", first_command())
    assert re.fullmatch(r"[1-9]{81}\n", done.stdout)
    assert done.stderr == "VERIFIED\n"


def test_holes_are_filled_as_shown() -> None:
    shown = re.findall(r'^\$ edge (fill) (?:--choices (\S+) )?"(.*)"\n(.*)$', README, re.MULTILINE)
    assert len(shown) == 2
    for command, choices, template, answer in shown:
        more = ("--choices", choices) if choices else ()
        assert output_of("-m", "edge", command, *more, template).stdout == answer + "\n"


def test_scores_of_choices_are_as_stated() -> None:
    stated = re.search(r"of the last command: (.*?)\)", README)
    shown = re.search(r'^\$ edge fill --choices (\S+) "(.*)"$', README, re.MULTILINE)
    assert stated
    assert shown
    command = ("-m", "edge", "fill", "--json", "--choices", shown[1], shown[2])
    scores = json.loads(output_of(*command).stdout)["holes"][0]["scores"]
    printed = [f"{score:.2f}" for score in scores.values()]
    assert re.findall(r"-[\d.]+\d", stated[1]) == printed


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "DESIGN.md"])
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_exit_code_is_explained() -> None:
    explained = set(
        re.findall(r"\d+", " ".join(re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE)))
    )
    assert {str(code) for code in EXIT_CODES.values()} <= explained


@pytest.mark.slow
def test_the_solve_rates_are_what_the_command_prints() -> None:
    steps = ("1", "2", "4", "8", "16", "32", "all")
    command = [BENCH / "sudoku_solve_rate.py", "--json"]
    rows = json.loads(output_of(*command).stdout)["models"][0]["rows"]
    printed = [f"{row['solve_rate']:.1%}" for row in rows]
    stated = [re.search(rf"^\| {step} \| ([\d.]+%) \|", README, re.MULTILINE) for step in steps]
    assert [match[1] for match in stated if match] == printed

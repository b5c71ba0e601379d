"""The commands that tell: ``show``, ``models`` and ``doctor``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from expert_models import ExpertModel

import edge as library
from edge import _native
from edge.denoisers import EMBEDDED, path_of
from edge.formats.experts import Experts

Edge = Callable[..., Any]


def test_show_says_in_json_what_inspect_says(edge: Edge) -> None:
    shown = json.loads(edge("show", "--json").out)
    info = library.inspect()
    expected = {
        "schema": 1,
        "architecture": info.config.denoiser.architecture,
        "noise": "mask",
        "attention": "full",
        "canvas": "in_place",
        "block_length": info.config.diffusion.block_length,
        "mask_token_id": 0,
        "sampler": info.config.diffusion.sampler,
        "threshold": info.config.diffusion.threshold,
        "task": "sudoku",
        "num_parameters": info.num_parameters,
        "size_bytes": path_of("sudoku").stat().st_size,
        "has_tokenizer": True,
        "chat_template": None,
        "sha256": EMBEDDED["sudoku"].sha256,
        "provenance": info.provenance,
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert sum(mix["num_bytes"] for mix in shown["types"].values()) <= shown["size_bytes"]
    assert "tensors" not in shown


def test_show_lists_the_tensors_only_when_asked(edge: Edge) -> None:
    tensors = json.loads(edge("show", "--tensors", "--json").out)["tensors"]
    assert sum(map(num_elements, tensors)) == library.inspect().num_parameters
    plain, listed = edge("show").out, edge("show", "--tensors").out
    assert listed.startswith(plain)
    assert len(listed.splitlines()) == len(plain.splitlines()) + len(tensors)


def num_elements(tensor: dict[str, Any]) -> int:
    count = 1
    for length in tensor["shape"]:
        count *= length
    return count


def test_show_names_for_people_what_json_names_for_programs(edge: Edge) -> None:
    page = edge("show", "-m", "sudoku").out
    for words in ("architecture", "mask token id", "q8_0", EMBEDDED["sudoku"].sha256):
        assert words in page


def test_show_prints_the_chat_template(edge: Edge, chat_model: Path) -> None:
    template = library.inspect(chat_model).chat_template
    assert template
    assert edge("show", "-m", str(chat_model), "--template").out == template
    assert (
        json.loads(edge("show", "-m", str(chat_model), "--json").out)["chat_template"] == template
    )
    assert f"{len(template)} characters" in edge("show", "-m", str(chat_model)).out


def test_show_says_that_there_is_no_chat_template(edge: Edge) -> None:
    ended = edge("show", "--template")
    assert (ended.code, ended.out) == (4, "")
    assert "has no chat template" in ended.err


def test_models_lists_what_is_embedded(edge: Edge) -> None:
    models = json.loads(edge("models", "--json").out)["models"]
    assert [model["name"] for model in models] == list(EMBEDDED)
    assert [model["name"] for model in models if model["default"]] == ["sudoku"]
    page = edge("models").out
    for model in models:
        assert all(words in page for words in (model["name"], model["purpose"], model["command"]))


def test_doctor_tests_every_instruction_set(edge: Edge) -> None:
    ended = edge("doctor", "--json")
    facts = json.loads(ended.out)
    isas = _native.supported_isas()
    assert (ended.code, ended.err) == (0, "")
    assert (facts["isa"], facts["supported_isas"]) == (isas[0], isas)
    assert [test["isa"] for test in facts["self_test"]] == isas
    assert all(test["passed"] for test in facts["self_test"])
    assert facts["limits"] == _native.limits()


def test_doctor_is_not_misled_by_options_in_the_environment(edge: Edge) -> None:
    ended = edge("doctor", EDGE_STEPS="1", EDGE_JSON="0", EDGE_ISA="generic")
    assert ended.code == 0
    assert "generic (EDGE_ISA=generic) of" in ended.out


def test_doctor_fails_for_an_instruction_set_that_cannot_run(edge: Edge) -> None:
    ended = edge("doctor", EDGE_ISA="z80")
    assert ended.code == 70
    assert "FAILED" in ended.out
    assert ended.err.startswith("edge: error: the self-test failed for z80 - ")


@pytest.mark.parametrize("command", ["show", "models", "doctor"])
def test_prompts_are_not_taken(edge: Edge, command: str) -> None:
    assert edge(command, "surplus").code == 2


def test_show_tells_of_experts(edge: Edge, tmp_path: Path) -> None:
    experts = Experts(16, 3, 32, 64, 1, "sigmoid", True, False, 2.5, 4, 2)
    ExpertModel(experts).write(tmp_path / "model.gguf")
    shown = edge("show", "-m", str(tmp_path / "model.gguf")).out
    wanted = (
        "3 of 16, 32 wide, by sigmoid, from 2 of 4 groups, renormalised, times 2.5, "
        "64 wide for all rows, none in the first 1 layers"
    )
    assert wanted in shown
    told = json.loads(edge("show", "-m", str(tmp_path / "model.gguf"), "--json").out)
    assert told["experts"]["num_used_groups"] == 2
    assert "none" in edge("show").out

"""Where the diffusion.* keys come from: config.json's `diffusion` object and ``--set``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert import convert as run
from convert.checkpoint import open_checkpoint
from convert.models import build_spec
from convert.models.base import Choices
from edge.errors import ModelFileError, RequestError, UnsupportedModelError
from edge.formats.gguf_file import open_model

Make = Callable[..., Any]  # conftest.folder
Golden = Callable[[str], Path]


def values(source: Path) -> dict[str, Any]:
    return {e.key: e.value for e in build_spec(open_checkpoint(source), Choices()).entries}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention", "block"),
        ("attention", "block_causal"),
        ("attention", "causal_context"),
        ("noise", "uniform"),
        ("shift_logits", True),
    ],
)
def test_other_processes_are_refused(folder: Make, key: str, value: object) -> None:
    source = folder(diffusion={key: value}).write()
    with pytest.raises(UnsupportedModelError, match=rf"diffusion\.{key} is "):
        values(source)


def test_the_diffusion_object_is_copied(folder: Make) -> None:
    given = {
        "attention": "bidirectional",
        "canvas": "in_place",
        "shift_logits": False,
        "sampler": "low_confidence_dynamic",
        "steps_per_block": 4,
        "threshold": 1,
        "block_length": 16,
        "eos_ids": [1, 2],
    }
    found = values(folder(diffusion=given | {"noise": None}).write())
    written = {k.removeprefix("diffusion."): v for k, v in found.items() if k[:10] == "diffusion."}
    changed = {"attention": "full", "eos_ids": (1, 2), "noise": "mask", "canvas_length": 48}
    assert written == given | changed
    assert isinstance(found["diffusion.threshold"], float)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"samplr": "x"}, r"diffusion\.samplr is no known key.*diffusion\.sampler"),
        ({"threshold": "high"}, r'diffusion\.threshold is "high"'),
        ({"threshold": 1.5}, r"diffusion\.threshold is 1\.5"),
        ({"threshold": True}, r"diffusion\.threshold is true"),
        ({"block_length": 0}, r"diffusion\.block_length is 0"),
        ({"block_length": 49}, r"diffusion\.block_length is 49, at most max_sequence_length 48"),
        ({"steps_per_block": -1}, r"diffusion\.steps_per_block is -1"),
        ({"steps_per_block": 2.0}, r"diffusion\.steps_per_block is 2\.0"),
        ({"shift_logits": 1}, r"diffusion\.shift_logits is 1"),
        ({"canvas": "apend"}, r'diffusion\.canvas is "apend", one of append, in_place'),
        ({"canvas": ["append"]}, r"diffusion\.canvas is "),
        ({"canvas_length": 8}, r'diffusion\.canvas_length is 8, diffusion\.canvas "in_place"'),
        ({"sampler": ""}, r'diffusion\.sampler is "", a text'),
        ({"sampler": "\ud800"}, r"diffusion\.sampler is "),
        ({"eos_ids": []}, r"diffusion\.eos_ids is \[\]"),
        ({"eos_ids": [99]}, r"diffusion\.eos_ids is \[99\]"),
    ],
)
def test_diffusion_faults_are_named(folder: Make, given: dict[str, Any], reason: str) -> None:
    source = folder(diffusion=given).write()
    with pytest.raises(ModelFileError, match=reason):
        values(source)


def test_settings_reach_the_file(golden: Golden, tmp_path: Path) -> None:
    settings = {
        "general.name": "My Model",
        "diffusion.threshold": "0.75",
        "diffusion.steps_per_block": "4",
        "diffusion.block_length": "8",
        "diffusion.shift_logits": "false",
        "diffusion.eos_ids": "3,5",
    }
    run(golden("llada"), tmp_path / "out.gguf", overrides=settings)
    metadata = open_model(tmp_path / "out.gguf").metadata
    assert metadata["general.name"] == "My Model"
    assert metadata["diffusion.threshold"] == 0.75
    assert metadata["diffusion.steps_per_block"] == 4
    assert metadata["diffusion.block_length"] == 8
    assert metadata["diffusion.shift_logits"] is False
    assert list(metadata["diffusion.eos_ids"]) == [3, 5]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("key", "error"),
    [("diffusion.sampler", RequestError), ("edge.task", UnsupportedModelError)],
)
def test_names_that_the_runtime_does_not_know_are_refused_before_the_work(
    golden: Golden, tmp_path: Path, key: str, error: type[Exception], dry_run: bool
) -> None:
    stages: list[object] = []
    with pytest.raises(error, match="nonsense"):
        run(
            golden("llada"),
            tmp_path / "out.gguf",
            overrides={key: "nonsense"},
            dry_run=dry_run,
            progress=lambda *call: stages.append(call),
        )
    assert stages == []


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("diffusion.treshold", "1", r"'diffusion\.treshold' cannot be set.*diffusion\.threshold"),
        ("llada.block_count", "1", "cannot be set"),
        (
            "diffusion.threshold",
            "2",
            r"threshold is \"2\", a finite number from 1e-06 to 1",
        ),
        ("diffusion.threshold", "nan", "a finite number"),
        ("diffusion.block_length", "0", "a whole number from 1"),
        ("diffusion.block_length", "9999", "at most max_sequence_length 512"),
        ("diffusion.block_length", "1.5", "a whole number from 1"),
        ("diffusion.steps_per_block", "9" * 5000, "a whole number from 1"),
        ("diffusion.shift_logits", "yes", "true or false"),
        ("diffusion.canvas", "here", "one of append, in_place"),
        ("diffusion.eos_ids", "1,,2", "whole numbers"),
        ("diffusion.eos_ids", "256", "at most 64 ids below 256"),
        ("edge.task", "", "a text"),
        ("general.name", "\udc80", "a text"),
    ],
)
def test_settings_are_typed_and_known(
    golden: Golden, tmp_path: Path, key: str, text: str, reason: str
) -> None:
    with pytest.raises(RequestError, match=reason):
        run(golden("llada"), tmp_path / "out.gguf", overrides={key: text})
    assert not (tmp_path / "out.gguf").exists()

"""LLaDA2 against its published code: logits and a run of the fixture, and LLaDA2's settings.

The arrays in tests/golden/llada2_moe/expected.npz were recorded from the family's own code; its
README.md there says how.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge
from convert import convert
from edge.config import read_config
from edge.errors import ModelFileError, UnsupportedModelError
from edge.formats.gguf_file import read_header

GOLDEN = Path(__file__).parents[1] / "golden" / "llada2_moe"
MASK, BLOCK = 245, {"diffusion.block_length": "8"}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("llada2") / "model.gguf"
    convert(GOLDEN, out, "f32", mask_token_id=MASK, overrides=BLOCK)
    return out


def expected() -> Any:
    return np.load(GOLDEN / "expected.npz")


@pytest.mark.usefixtures("isa")
def test_logits(model_file: Path) -> None:
    data = expected()
    with edge.load(model_file) as model:
        assert np.abs(model.logits(data["x"]) - data["logits"]).max() < 1e-4


def test_run(model_file: Path) -> None:
    data, states = expected(), []
    wanted = data["gen_states"]
    with edge.load(model_file) as model:
        model.generate_ids(
            data["prompt"],
            max_tokens=wanted.shape[1] - len(data["prompt"]),
            steps_per_block=8,
            threshold=0.35,
            reference=True,
            on_step=lambda draft: states.append(draft.ids),
        )
    np.testing.assert_array_equal(np.array(states), wanted[1:])


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_threads_and_cache(tmp_path: Path, kind: str) -> None:
    convert(GOLDEN, tmp_path / "model.gguf", kind, mask_token_id=MASK, overrides=BLOCK)
    logits = []
    for threads in (1, 2, 5):
        with edge.load(tmp_path / "model.gguf", threads=threads) as model:
            logits.append(model.logits(expected()["x"]))
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


def test_what_the_file_says(model_file: Path) -> None:
    config = read_config(read_header(model_file))
    denoiser, diffusion = config.denoiser, config.diffusion
    assert denoiser.architecture == "edge-bailingmoe2"
    assert (denoiser.rotary_dims, denoiser.head_dim) == (16, 32)
    assert (diffusion.attention, diffusion.block_align) == ("block", "absolute")
    assert (diffusion.sampler, round(diffusion.threshold, 6)) == ("low_confidence_dynamic", 0.95)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"score_function": "softmax"}, UnsupportedModelError),
        ({"use_qk_norm": False}, UnsupportedModelError),
        ({"norm_head": True}, UnsupportedModelError),
        ({"n_group": 3}, ModelFileError),
        ({"topk_group": 5}, ModelFileError),
        ({"partial_rotary_factor": 0.01}, ModelFileError),
        ({"partial_rotary_factor": 1.5}, ModelFileError),
        ({"first_k_dense_replace": 3}, ModelFileError),
        ({"routed_scaling_factor": 0}, ModelFileError),
    ],
)
def test_settings_that_cannot_be(
    tmp_path: Path, changes: dict[str, Any], error: type[edge.EdgeError]
) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "source")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(error, match=next(iter(changes))):
        convert(folder, tmp_path / "model.gguf", "f32", mask_token_id=MASK, overrides=BLOCK)


def test_a_folder_of_llada_2_1_is_told_of_edits(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "LLaDA2.1-mini")
    options: dict[str, Any] = {"mask_token_id": MASK, "dry_run": True}
    report = convert(folder, tmp_path / "a.gguf", "f32", overrides=BLOCK, **options)
    assert any("joint_threshold" in note for note in report.notes)
    told = BLOCK | {"diffusion.sampler": "joint_threshold"}
    report = convert(folder, tmp_path / "a.gguf", "f32", overrides=told, **options)
    assert not any("joint_threshold" in note for note in report.notes)

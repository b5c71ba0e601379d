"""The diffusion.* keys each published class gets, and who must say that it is a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from convert import convert as run
from convert.checkpoint import open_checkpoint
from convert.models import build_spec
from convert.models.base import Choices
from convert.pipeline import parse_settings
from edge.errors import ModelFileError, RequestError, UnsupportedModelError
from edge.formats.gguf_file import open_model

Make = Callable[..., Any]  # conftest.dense
Golden = Callable[[str], Path]
BASE = {"noise": "mask", "attention": "full", "canvas": "append", "shift_logits": False}
A2D = {"block_length": 32, "block_align": "prompt_end", "sampler": "linear_schedule"}
BLOCKS = {
    "attention": "block",
    "block_align": "absolute",
    "sampler": "low_confidence_dynamic",
    "threshold": 0.9,
}
AUTOREGRESSIVE = ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"]


def diffusion(source: Path, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    said = {f"diffusion.{key}": text for key, text in (settings or {}).items()}
    spec = build_spec(open_checkpoint(source), Choices(None, parse_settings(said)))
    found = {entry.key.removeprefix("diffusion."): entry.value for entry in spec.entries}
    return {k: v for k, v in found.items() if "." not in k and k != "eos_ids"}


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        (
            "DreamModel",
            {},
            {
                "shift_logits": True,
                "block_length": 48,
                "block_align": "prompt_end",
                "sampler": "timestep",
                "rank": "entropy",
            },
        ),
        ("A2DQwen2LMHeadModel", {}, A2D),
        ("A2DQwen3LMHeadModel", {}, A2D),
        ("A2DQwen3LMHeadModel", {"max_position_embeddings": 20}, A2D | {"block_length": 20}),
        ("SDARForCausalLM", {}, BLOCKS | {"block_length": 4}),
        ("SDARForCausalLM", {"block_size": 16}, BLOCKS | {"block_length": 16}),
        (
            "Fast_dLLM_QwenForCausalLM",
            {},
            BLOCKS | {"block_length": 32, "sub_block_length": 8, "shift_logits": True},
        ),
        (
            "Fast_dLLM_QwenForCausalLM",
            {"bd_size": 16, "small_block_size": 4},
            BLOCKS | {"block_length": 16, "sub_block_length": 4, "shift_logits": True},
        ),
        (
            "Fast_dLLM_QwenForCausalLM",
            {"bd_size": 4},
            BLOCKS | {"block_length": 4, "sub_block_length": 4, "shift_logits": True},
        ),
        (
            "Fast_dLLM_QwenForCausalLM",
            {"sub_block_size": 2},
            BLOCKS | {"block_length": 32, "sub_block_length": 2, "shift_logits": True},
        ),
    ],
)
def test_defaults_of_each_class(
    dense: Make, name: str, config: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert diffusion(dense(name, **config).write()) == BASE | expected


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"attention": "block"}, {"attention": "block"}),
        ({"attention": "block_causal"}, {"attention": "block"}),
        ({"attention": "bidirectional"}, {}),
        ({"attention": "causal_context"}, {"attention": "causal_context"}),
        ({"block_length": "8", "block_align": "absolute"}, {}),
        ({"sampler": "factor", "factor": "0.5"}, {"factor": 0.5}),
        ({"sampler": "entropy_bounded", "entropy_bound": "0.25"}, {"entropy_bound": 0.25}),
        ({"rank": "margin", "steps_per_block": "3"}, {"rank": "margin", "steps_per_block": 3}),
        ({"sub_block_length": "4"}, {"sub_block_length": 4}),
    ],
)
def test_settings_win(
    dense: Make, tmp_path: Path, settings: dict[str, str], changed: dict[str, Any]
) -> None:
    source = dense("A2DQwen3LMHeadModel").write()
    for key in {"block_align", "sampler"} & settings.keys():
        changed = changed | {key: settings[key]}
    if "block_length" in settings:
        changed = changed | {"block_length": int(settings["block_length"])}
    assert diffusion(source, settings) == BASE | A2D | changed
    run(source, tmp_path / "o.gguf", overrides={f"diffusion.{k}": v for k, v in settings.items()})
    metadata = open_model(tmp_path / "o.gguf").metadata
    for key, value in changed.items():
        assert metadata[f"diffusion.{key}"] == value


def test_a_default_sub_block_fits_a_given_block(dense: Make) -> None:
    source = dense("Fast_dLLM_QwenForCausalLM").write()
    assert diffusion(source, {"block_length": "6"})["sub_block_length"] == 6


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sub_block_length": "33"}, r"sub_block_length is 33, at most diffusion\.block_length 32"),
        ({"block_length": "49"}, "block_length is 49, at most max_position_embeddings 48"),
        ({"block_align": "left"}, "one of absolute, prompt_end"),
        ({"rank": "best"}, "one of confidence, margin, entropy, random"),
        ({"factor": "0"}, "factor is "),
        ({"sampler": "magic"}, "there is no sampler 'magic'"),
    ],
)
def test_impossible_settings_are_the_callers_fault(
    dense: Make, tmp_path: Path, settings: dict[str, str], reason: str
) -> None:
    source = dense("Fast_dLLM_QwenForCausalLM").write()
    overrides = {f"diffusion.{key}": text for key, text in settings.items()}
    with pytest.raises(RequestError, match=reason):
        run(source, tmp_path / "out.gguf", overrides=overrides)


@pytest.mark.parametrize(
    ("name", "config", "key"),
    [
        ("SDARForCausalLM", {"block_size": 64}, "block_size"),
        ("SDARForCausalLM", {"block_size": "4"}, "block_size"),
        ("Fast_dLLM_QwenForCausalLM", {"bd_size": 0}, "bd_size"),
        ("Fast_dLLM_QwenForCausalLM", {"small_block_size": 33}, "small_block_size"),
        ("Fast_dLLM_QwenForCausalLM", {"sub_block_size": 4.0}, "sub_block_size"),
    ],
)
def test_impossible_block_sizes_are_refused_by_name(
    dense: Make, name: str, config: dict[str, Any], key: str
) -> None:
    with pytest.raises(ModelFileError, match=f"{key} is .*a whole number from 1 to"):
        diffusion(dense(name, **config).write())


def test_uniform_noise_is_unsupported(dense: Make) -> None:
    source = dense(diffusion={"noise": "uniform"}).write()
    with pytest.raises(UnsupportedModelError, match=r'diffusion\.noise is "uniform"'):
        diffusion(source)


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_an_autoregressive_model_is_refused(dense: Make, name: str) -> None:
    made = dense(name, rope_scaling={"rope_type": "llama3"}, mask_token_id=...)
    with pytest.raises(UnsupportedModelError, match="is an autoregressive model") as caught:
        diffusion(made.write(), {"block_length": "8"})
    assert name in str(caught.value)
    assert "--set diffusion.attention=block" in caught.value.hint


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
@pytest.mark.parametrize("place", ["config", "setting"])
def test_unless_something_says_it_is_a_denoiser(dense: Make, name: str, place: str) -> None:
    said = {"attention": "block", "block_length": 16}
    told_by_config = place == "config"
    source = dense(name, **({"diffusion": said} if told_by_config else {})).write()
    settings = {} if told_by_config else {key: str(value) for key, value in said.items()}
    assert diffusion(source, settings) == BASE | said


def test_a_broken_diffusion_object_says_nothing(dense: Make) -> None:
    with pytest.raises(ModelFileError, match=r"diffusion is \[1\]"):
        diffusion(dense("Qwen3ForCausalLM", diffusion=[1]).write())


BD3LM = "Qwen3-0.6B-diffusion-BD3LM-v0.1"


@pytest.mark.parametrize(
    ("name", "config", "settings", "noted"),
    [
        (BD3LM, {}, {}, True),
        (BD3LM, {"diffusion": {"block_length": 8}}, {}, True),
        (BD3LM, {"diffusion": {"attention": "full"}}, {}, False),
        (BD3LM, {}, {"attention": "block"}, False),
        ("Qwen3-0.6B-diffusion-mdlm-v0.1", {}, {}, False),
    ],
)
def test_a_name_that_tells_of_blocks_is_noted_not_believed(
    dense: Make,
    tmp_path: Path,
    edge_convert: Callable[..., Any],
    name: str,
    config: dict[str, Any],
    settings: dict[str, str],
    noted: bool,
) -> None:
    source = dense("A2DQwen3LMHeadModel", folder=name, **config).write()
    args = [f"--set=diffusion.{key}={text}" for key, text in settings.items()]
    done = edge_convert(source, tmp_path / "out.gguf", *args)
    assert done.code == 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert [("--set diffusion.attention=block" in line) for line in lines] == [True] * noted
    attention = open_model(tmp_path / "out.gguf").metadata["diffusion.attention"]
    assert attention == settings.get("attention", "full")


def test_other_classes_have_no_such_twins(dense: Make, tmp_path: Path) -> None:
    source = dense("DreamModel", folder="dream-bd3lm").write()
    assert run(source, tmp_path / "out.gguf").notes == ()

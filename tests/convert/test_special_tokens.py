"""Where the mask token and the ends of an answer are found, and what is not guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.checkpoint import open_checkpoint
from convert.models import build_spec
from convert.models.base import Choices
from convert.models.tokens import MASK_NAMES
from edge.errors import ModelFileError

Make = Callable[..., Any]  # conftest.dense, conftest.folder


def values(source: Path, mask_token_id: int | None = None) -> dict[str, Any]:
    spec = build_spec(open_checkpoint(source), Choices(mask_token_id))
    return {entry.key: entry.value for entry in spec.entries}


def mask_of(source: Path, mask_token_id: int | None = None) -> int:
    mask: int = values(source, mask_token_id)["tokenizer.ggml.mask_token_id"]
    return mask


def unnamed(make: Make, **files: object) -> Path:
    """A checkpoint whose config.json names no mask token, with more JSON files beside it."""
    path: Path = make(mask_token_id=...).write()
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def decoder(tokens: dict[str, int]) -> dict[str, object]:
    return {"added_tokens_decoder": {str(id): {"content": name} for name, id in tokens.items()}}


def tokenizer(tokens: dict[str, int]) -> dict[str, object]:
    words = {f"w{id}": id for id in range(min(tokens.values()))}
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    added = [{"id": id, "content": name, "special": True, **flags} for name, id in tokens.items()]
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    return {"version": "1.0", "added_tokens": added, "model": model}


PLACES: dict[str, Callable[[dict[str, int]], object]] = {
    "added_tokens": dict,
    "tokenizer_config": decoder,
    "tokenizer": tokenizer,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", MASK_NAMES)
def test_each_known_name_in_each_place(dense: Make, place: str, name: str) -> None:
    tokens = {"<|im_end|>": 20, name: 21, "<|unmasked|>": 22}
    assert mask_of(unnamed(dense, **{place: PLACES[place](tokens)})) == 21


def test_llada_looks_there_too(folder: Make) -> None:
    assert mask_of(unnamed(folder, added_tokens={"<|mask|>": 9})) == 9


def test_the_caller_then_the_config_then_the_tokenizer(dense: Make) -> None:
    made = dense(mask_token_id=5)
    source = made.write()
    (source / "added_tokens.json").write_text(json.dumps({"<|mask|>": 9, "[MASK]": 10}))
    assert mask_of(source, 3) == 3
    assert mask_of(source) == 5
    made.config["mask_token_id"] = None
    made.write_config()
    assert mask_of(source, 3) == 3
    with pytest.raises(ModelFileError, match="the tokenizer has several"):
        mask_of(source)


def test_two_names_of_one_id_agree(dense: Make) -> None:
    files = {"added_tokens": {"<MASK>": 21}, "tokenizer_config": decoder({"<|MASK|>": 21})}
    assert mask_of(unnamed(dense, **files)) == 21


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"<MASK>": 21, "[MASK]": 22}},
        {"added_tokens": {"<MASK>": 21}, "tokenizer_config": decoder({"<|MASK|>": 22})},
        {"added_tokens": {"<MASK>": 21}, "tokenizer_config": decoder({"<MASK>": 22})},
        {"tokenizer": tokenizer({"<MASK>": 21}), "added_tokens": {"[MASK]": 22}},
    ],
)
def test_several_ids_are_listed_not_chosen_from(dense: Make, files: dict[str, object]) -> None:
    source = unnamed(dense, **files)
    with pytest.raises(ModelFileError, match=r"several: .*21.*22.* - give it with --mask-token-id"):
        mask_of(source)


def test_the_tokenizer_may_say_which_token_masks(dense: Make) -> None:
    settings = decoder({"<|blank|>": 30}) | {"mask_token": {"content": "<|blank|>"}}
    assert mask_of(unnamed(dense, tokenizer_config=settings)) == 30


def test_what_looks_like_a_mask_is_listed(dense: Make) -> None:
    tokens = {"<|Mask_Token|>": 20, "<|end|>": 21}
    source = unnamed(dense, added_tokens=tokens)
    with pytest.raises(ModelFileError) as caught:
        mask_of(source)
    assert '"<|Mask_Token|>" is 20' in str(caught.value)
    assert "<|end|>" not in str(caught.value)
    assert "--mask-token-id N" in caught.value.hint


@pytest.mark.parametrize("id", [40, 10**9, -1])
def test_a_mask_beyond_the_embedding_is_refused(dense: Make, id: int) -> None:
    source = unnamed(dense, added_tokens={"<|mask|>": id})
    with pytest.raises(ModelFileError, match=f"has id {id}, the embedding has 40 rows"):
        mask_of(source)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens", {"<|mask|>": "9"}),
        ("added_tokens", {"<|mask|>": True}),
        ("added_tokens", ["<|mask|>"]),
        ("tokenizer_config", {"added_tokens_decoder": ["<|mask|>"]}),
        ("tokenizer_config", {"added_tokens_decoder": {"nine": {"content": "<|mask|>"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"9": "<|mask|>"}}),
        ("tokenizer_config", {"added_tokens_decoder": {"9" * 5000: {"content": "x"}}}),
        ("tokenizer_config", {"mask_token": 9}),
        ("generation_config", {"eos_token_id": "38"}),
        ("generation_config", {"eos_token_id": [38, 40]}),
        ("generation_config", {"eos_token_id": list(range(38)) * 2}),
        ("generation_config", {"eos_token_id": 1.5}),
        ("generation_config", [38]),
    ],
)
def test_damaged_files_are_named(dense: Make, name: str, content: object) -> None:
    source = unnamed(dense, **{name: content})
    with pytest.raises(ModelFileError, match=rf"{name}\.json") as caught:
        mask_of(source, 9)
    assert len(str(caught.value)) < 500


def test_a_huge_generation_config_is_refused(dense: Make) -> None:
    source = unnamed(dense, generation_config={"x": "x" * (1 << 20)})
    with pytest.raises(ModelFileError, match=r"generation_config\.json is larger than 1048576"):
        mask_of(source, 9)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (38, {}, (38,)),
        (38, {"eos_token_id": 38}, (38,)),
        (38, {"eos_token_id": [37, 38, 36]}, (38, 37, 36)),
        ([38, 35], {"eos_token_id": 37}, (38, 35, 37)),
        (None, {"eos_token_id": [37]}, (37,)),
        (None, {"eos_token_id": None}, None),
        ([], {"eos_token_id": []}, None),
    ],
)
def test_ends_are_those_of_both_files(
    dense: Make, config: object, generation: dict[str, object], expected: tuple[int, ...] | None
) -> None:
    source = dense(eos_token_id=config).write()
    (source / "generation_config.json").write_text(json.dumps(generation))
    found = values(source)
    assert found.get("diffusion.eos_ids") == expected
    assert found.get("tokenizer.ggml.eos_token_id") == (expected[0] if expected else None)


def test_the_diffusion_object_has_the_last_word_on_ends(dense: Make) -> None:
    source = dense(eos_token_id=38, diffusion={"eos_ids": [3]}).write()
    assert values(source)["diffusion.eos_ids"] == (3,)


def test_tokens_that_only_the_tokenizer_names(dense: Make) -> None:
    tokens = {"<|begin|>": 30, "<|im_end|>": 31, "<|pad|>": 32, "<|far|>": 400}
    roles = {"bos_token": "<|begin|>", "eos_token": {"content": "<|im_end|>"}}
    settings = decoder(tokens) | roles | {"pad_token": "<|pad|>"}
    source = unnamed(dense, tokenizer_config=settings)
    found = values(source, mask_token_id=39)
    assert found["tokenizer.ggml.bos_token_id"] == 30
    assert found["tokenizer.ggml.padding_token_id"] == 32
    assert found["diffusion.eos_ids"] == (38, 31)  # config.json's first
    for name in ("<|far|>", "<|absent|>"):
        (source / "tokenizer_config.json").write_text(
            json.dumps(settings | {"bos_token": name, "eos_token": name})
        )
        found = values(source, mask_token_id=39)
        assert "tokenizer.ggml.bos_token_id" not in found
        assert found["diffusion.eos_ids"] == (38,)


@pytest.mark.parametrize("role", ["bos_token", "eos_token", "pad_token", "mask_token"])
def test_a_token_in_a_role_has_a_name(dense: Make, role: str) -> None:
    source = unnamed(dense, tokenizer_config={role: 5})
    with pytest.raises(ModelFileError, match=rf'tokenizer_config\.json: "{role}" is 5'):
        values(source, mask_token_id=39)

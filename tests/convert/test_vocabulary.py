"""A byte-level BPE tokenizer in the keys that foreign readers know, or the reason why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors

from convert import convert as run
from convert.checkpoint import open_checkpoint
from convert.vocabulary import Vocabulary, vocabulary_of
from edge.formats.gguf_file import Header, open_model
from edge.formats.pretokenizers import IGNORE_MERGES, PRE_TOKENIZERS
from edge.vocabulary import build_tokenizer

Make = Callable[..., Any]  # conftest.dense
Bpe = Callable[[str], Any]  # conftest.bpe
Golden = Callable[[str], Path]
ROWS = 330
TEXTS = (
    "",
    "the quick brown fox isn't 12345",
    "  LAZY dogs'LL \t\r\n\n do",
    "\u00e9t\u00e9 \u4f60\u597d \u2603 \U0001f600 \u0635\u0628\u0627\u062d",
    "a<think>b <|endoftext|> <|mask|>",
    "\x00\x7f\xa0\u3000x",
)
# Names that mean the same as another one, which is then the one that is written.
SAME_AS = {
    "phi-2": "gpt-2",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "smaug-bpe": "dbrx",
    "deepseek-r1-qwen": "qwen2",
    "starcoder": "smollm",
    "refact": "smollm",
    "bailingmoe2": "bailingmoe",
    "llada-moe": "bailingmoe",
}


@pytest.fixture
def vocabulary(dense: Make) -> Callable[[Any], Vocabulary]:
    """The vocabulary that a conversion makes of a tokenizer, or of its JSON."""
    path = dense(vocab_size=ROWS).write()

    def make(tokenizer: Any) -> Vocabulary:
        text = tokenizer.to_str() if isinstance(tokenizer, Tokenizer) else json.dumps(tokenizer)
        (path / "tokenizer.json").write_text(text, encoding="utf-8")
        return vocabulary_of(open_checkpoint(path), ROWS)

    return make


def values(vocabulary: Vocabulary) -> dict[str, Any]:
    assert vocabulary.note == ""
    return {e.key.removeprefix("tokenizer.ggml."): e.value for e in vocabulary.entries}


def refusal(vocabulary: Vocabulary) -> str:
    assert [(e.key, e.value) for e in vocabulary.entries] == [("tokenizer.ggml.model", "no_vocab")]
    return vocabulary.note


def test_the_keys_reach_the_file(dense: Make, bpe: Bpe, tmp_path: Path) -> None:
    tokenizer = bpe("qwen2")
    source = dense("DreamModel", vocab_size=ROWS, mask_token_id=...).write()
    tokenizer.save(str(source / "tokenizer.json"))
    report = run(source, tmp_path / "out.gguf")
    assert report.notes == ()
    metadata = open_model(tmp_path / "out.gguf").metadata
    assert metadata["tokenizer.huggingface.json"] == (source / "tokenizer.json").read_text("utf-8")
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.pre"] == "qwen2"
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    size = tokenizer.get_vocab_size()
    tokens, types = metadata["tokenizer.ggml.tokens"], list(metadata["tokenizer.ggml.token_type"])
    assert list(tokens[:size]) == [tokenizer.id_to_token(id) for id in range(size)]
    assert list(tokens[size:]) == [f"[PAD{id}]" for id in range(size, ROWS)]
    assert types == [1] * (size - 3) + [3, 3, 4] + [5] * (ROWS - size)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert list(metadata["tokenizer.ggml.merges"]) == [f"{a} {b}" for a, b in merges]
    assert metadata["tokenizer.ggml.mask_token_id"] == tokenizer.token_to_id("<|mask|>")


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_known_pre_tokenizers_are_recognised(
    vocabulary: Callable[[Any], Vocabulary], bpe: Bpe, name: str
) -> None:
    assert values(vocabulary(bpe(name)))["pre"] == SAME_AS.get(name, name)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_the_keys_alone_give_the_tokenizer_s_ids(
    vocabulary: Callable[[Any], Vocabulary], bpe: Bpe, name: str
) -> None:
    source = bpe(name)
    metadata = {f"tokenizer.ggml.{key}": v for key, v in values(vocabulary(source)).items()}
    built, num_ids = build_tokenizer(Header("f.gguf", metadata, {}, 0, 0), ROWS)
    assert num_ids == ROWS
    for text in TEXTS:
        assert built.encode(text).ids == source.encode(text).ids
        assert built.decode(built.encode(text).ids) == source.decode(source.encode(text).ids)


@pytest.mark.parametrize("name", SAME_AS)
def test_names_for_one_behaviour_agree(name: str) -> None:
    same = SAME_AS[name]
    assert PRE_TOKENIZERS[name] == PRE_TOKENIZERS[same]
    assert (name in IGNORE_MERGES) == (same in IGNORE_MERGES)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
QWEN2 = PRE_TOKENIZERS["qwen2"][0]


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        (WORDS, "gpt-2"),
        (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS]), "smollm"),
        (
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(
                        Regex(QWEN2.replace(r"\r", "\r").replace(r"\n", "\n")), "isolated"
                    ),
                    BYTES,
                ]
            ),
            "qwen2",
        ),
        (
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated")]),
                    BYTES,
                ]
            ),
            "qwen2",
        ),
    ],
)
def test_other_spellings_are_recognised(
    vocabulary: Callable[[Any], Vocabulary], bpe: Bpe, pre_tokenizer: Any, name: str
) -> None:
    tokenizer = bpe("gpt-2")
    tokenizer.pre_tokenizer = pre_tokenizer
    assert values(vocabulary(tokenizer))["pre"] == name


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        BYTES,
        pre_tokenizers.Whitespace(),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), WORDS]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "removed"), BYTES]),
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN2), "isolated", invert=True), BYTES]
        ),
        pre_tokenizers.Sequence([pre_tokenizers.Split(QWEN2, "isolated"), BYTES]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{L}+"), "isolated"), BYTES]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), WORDS]),
        pre_tokenizers.Sequence([BYTES, pre_tokenizers.Split(Regex(QWEN2), "isolated")]),
    ],
)
def test_unknown_pre_tokenizers_are_not_renamed(
    vocabulary: Callable[[Any], Vocabulary], bpe: Bpe, pre_tokenizer: Any
) -> None:
    tokenizer = bpe("gpt-2")
    tokenizer.pre_tokenizer = pre_tokenizer
    assert "its pre-tokenizer" in refusal(vocabulary(tokenizer))


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe"])
def test_merges_that_are_ignored_or_not_must_fit_the_name(
    vocabulary: Callable[[Any], Vocabulary], bpe: Bpe, name: str
) -> None:
    content = json.loads(bpe(name).to_str())
    content["model"]["ignore_merges"] = name not in IGNORE_MERGES
    found = vocabulary(content)
    if name == "llama-bpe":  # there is a name for those words with merges obeyed
        assert values(found)["pre"] == "dbrx"
    else:
        assert "no known name" in refusal(found)


@pytest.mark.parametrize(
    ("normalizer", "fits"),
    [
        (normalizers.NFC(), True),
        (normalizers.Sequence([normalizers.NFC()]), True),
        (normalizers.NFKC(), False),
        (normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]), False),
    ],
)
def test_text_may_be_composed_but_not_changed(
    vocabulary: Callable[[Any], Vocabulary], bpe: Bpe, normalizer: Any, fits: bool
) -> None:
    tokenizer = bpe("qwen2")
    tokenizer.normalizer = normalizer
    assert ("normalizer" not in vocabulary(tokenizer).note) == fits


@pytest.mark.parametrize(
    ("template", "adds"),
    [
        ("$A", False),
        ("<|endoftext|> $A", True),
        ("$A <|endoftext|>", None),
        ("<|endoftext|> <|mask|> $A", None),
        ("<|endoftext|> $A <|endoftext|>", None),
    ],
)
def test_a_token_in_front_is_said(
    vocabulary: Callable[[Any], Vocabulary], bpe: Bpe, template: str, adds: bool | None
) -> None:
    tokenizer = bpe("qwen2")
    special = [(name, tokenizer.token_to_id(name)) for name in ("<|endoftext|>", "<|mask|>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=special
    )
    found = vocabulary(tokenizer)
    if adds is None:
        assert "more to a text than one token in front" in refusal(found)
    else:
        assert values(found)["add_bos_token"] is adds
        assert values(found).get("bos_token_id") == (special[0][1] if adds else None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"dropout": 0.1}}, "dropout 0.1"),
        ({"model": {"unk_token": "<|mask|>"}}, "unk_token"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
        ({"model": {"byte_fallback": True}}, "byte_fallback true"),
        ({"model": {"merges": []}}, "no merges"),
        ({"decoder": {"type": "Fuse"}}, "no byte-level BPE"),
        ({"decoder": None}, "no byte-level BPE"),
        ({"pre_tokenizer": None}, "does not end with bytes"),
    ],
)
def test_what_the_keys_cannot_say(
    vocabulary: Callable[[Any], Vocabulary], bpe: Bpe, change: dict[str, Any], reason: str
) -> None:
    content = json.loads(bpe("qwen2").to_str())
    content.update({k: content[k] | v if k == "model" else v for k, v in change.items()})
    assert reason in refusal(vocabulary(content))


def test_two_tokens_of_one_id(vocabulary: Callable[[Any], Vocabulary], bpe: Bpe) -> None:
    content = json.loads(bpe("qwen2").to_str())
    content["model"]["vocab"]["twin"] = 0
    assert "two of its tokens have the id 0" in refusal(vocabulary(content))


def test_a_token_named_like_padding(vocabulary: Callable[[Any], Vocabulary], bpe: Bpe) -> None:
    tokenizer = bpe("qwen2")
    tokenizer.add_tokens([f"[PAD{ROWS - 1}]"])
    assert "named like padding" in refusal(vocabulary(tokenizer))


def test_pairs_in_the_older_spelling(vocabulary: Callable[[Any], Vocabulary], bpe: Bpe) -> None:
    content = json.loads(bpe("qwen2").to_str())
    pairs = values(vocabulary(content))["merges"]
    content["model"]["merges"] = list(pairs)
    assert values(vocabulary(content))["merges"] == pairs


def test_other_tokenizers_are_noted(golden: Golden, tmp_path: Path) -> None:
    report = run(golden("sudoku"), tmp_path / "out.gguf")
    assert report.keys["tokenizer.ggml.model"] == "no_vocab"
    assert ["no byte-level BPE" in note for note in report.notes] == [True]


def test_older_tokenizer_files_are_noted(dense: Make, tmp_path: Path) -> None:
    source = dense().write()
    assert run(source, tmp_path / "out.gguf").notes == ()
    (source / "vocab.json").write_text("{}")
    (note,) = run(source, tmp_path / "out.gguf", force=True).notes
    assert note.startswith("vocab.json is there but no tokenizer.json")

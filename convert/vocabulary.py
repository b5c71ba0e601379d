"""The ``tokenizer.ggml.*`` keys: a byte-level BPE tokenizer as foreign readers know it.

tokenizer.json stays the truth and is stored whole beside them. What the keys cannot say exactly
is not said: the model is then ``no_vocab`` for foreign readers, and the report tells why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.metadata import Entry
from convert.tokenizer_files import StoredTokenizer
from edge.formats import keys
from edge.formats.pretokenizers import IGNORE_MERGES, PRE_TOKENIZERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Numbers of the public format.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_OLDER_FILES = ("vocab.json", "tokenizer.model")
_DIGITS = r"\p{N}"
_WORDS = PRE_TOKENIZERS["gpt-2"][0]
_PLAIN_BPE = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
}


class _CannotSay(Exception):
    """The keys have no words for something; the text says for what."""


@dataclass(frozen=True)
class Vocabulary:
    """The keys, why foreign readers get no vocabulary (empty when they do), what is kept whole."""

    entries: tuple[Entry, ...]
    note: str = ""
    texts: tuple[Entry, ...] = ()


def vocabulary_of(checkpoint: Checkpoint, num_rows: int) -> Vocabulary:
    """The keys for a model of `num_rows` embedding rows, one token each."""
    nothing = (Entry(keys.TOKENIZER_MODEL, "string", "no_vocab"),)
    texts = tuple(_texts(checkpoint))
    if checkpoint.tokenizer is None:
        return Vocabulary(nothing, _note_of_older_files(checkpoint.folder), texts)
    try:
        return Vocabulary(tuple(_entries(checkpoint.tokenizer, num_rows)), texts=texts)
    except _CannotSay as reason:
        note = f"foreign readers get no vocabulary: {reason}; this runtime reads tokenizer.json"
        return Vocabulary(nothing, note, texts)


def _texts(checkpoint: Checkpoint) -> Iterator[Entry]:
    if checkpoint.tokenizer:
        yield Entry(keys.TOKENIZER_JSON, "string", checkpoint.tokenizer.json)
    if checkpoint.chat_template:
        yield Entry(keys.CHAT_TEMPLATE, "string", checkpoint.chat_template)


def _note_of_older_files(folder: Path) -> str:
    older = [name for name in _OLDER_FILES if (folder / name).exists()]
    if not older:
        return ""
    return (
        f"{older[0]} is there but no tokenizer.json, so the model works on ids only; "
        "transformers' fast tokenizer classes save one"
    )


def _entries(tokenizer: StoredTokenizer, num_rows: int) -> Iterator[Entry]:
    content = tokenizer.content
    model = content["model"]
    if model.get("type") != "BPE" or (content.get("decoder") or {}).get("type") != "ByteLevel":
        raise _CannotSay("the tokenizer is no byte-level BPE")
    _require_plain(model)
    tokens, types = _tokens(tokenizer.loaded, num_rows)
    yield Entry(keys.TOKENIZER_MODEL, "string", "gpt2")
    yield Entry(keys.TOKENIZER_PRE, "string", _pre_tokenizer(content, model))
    yield Entry(keys.TOKENIZER_TOKENS, "strings", tokens)
    yield Entry(keys.TOKENIZER_TOKEN_TYPES, "i32s", types)
    yield Entry(keys.TOKENIZER_MERGES, "strings", _merges(model))
    yield from _start(tokenizer.loaded)


def _require_plain(model: dict[str, Any]) -> None:
    for key, wanted in _PLAIN_BPE.items():
        if model.get(key) not in (wanted, None, ""):
            raise _CannotSay(f"its model has {key} {shown(model[key])}")


def _pre_tokenizer(content: dict[str, Any], model: dict[str, Any]) -> str:
    """The first known name whose words and merges are the tokenizer's."""
    if not _composes_at_most(content.get("normalizer")):
        raise _CannotSay(f"its normalizer is {shown(content['normalizer'])}")
    expressions = tuple(_expressions(content.get("pre_tokenizer") or {}))
    ignores_merges = bool(model.get("ignore_merges"))
    for name, known in PRE_TOKENIZERS.items():
        if known == expressions and (name in IGNORE_MERGES) == ignores_merges:
            return name
    raise _CannotSay(f"its pre-tokenizer has no known name: {shown(expressions)}")


def _composes_at_most(normalizer: dict[str, Any] | None) -> bool:
    """True for NFC too, which foreign readers leave out: most text is composed already."""
    if not normalizer or normalizer["type"] == "NFC":
        return True
    parts = normalizer.get("normalizers")
    return normalizer["type"] == "Sequence" and all(map(_composes_at_most, parts or ()))


def _expressions(pre_tokenizer: dict[str, Any]) -> Iterator[str]:
    parts = list(_flat(pre_tokenizer))
    if not parts or parts[-1].get("type") != "ByteLevel":
        raise _CannotSay("its pre-tokenizer does not end with bytes")
    for part in parts[:-1]:
        yield _expression(part)
    if parts[-1].get("add_prefix_space", True):
        raise _CannotSay("its pre-tokenizer adds a space in front")
    if parts[-1].get("use_regex", True):
        yield _WORDS


def _flat(pre_tokenizer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if pre_tokenizer.get("type") == "Sequence":
        for part in pre_tokenizer["pretokenizers"]:
            yield from _flat(part)
    elif pre_tokenizer:
        yield pre_tokenizer


def _expression(part: dict[str, Any]) -> str:
    if part["type"] == "Digits" and part.get("individual_digits"):
        return _DIGITS
    pattern = part.get("pattern")
    isolates = part.get("behavior") == "Isolated" and not part.get("invert")
    if part["type"] != "Split" or not isolates or not isinstance(pattern, dict):
        raise _CannotSay(f"its pre-tokenizer has the part {shown(part)}")
    if "Regex" not in pattern:
        raise _CannotSay(f"its pre-tokenizer splits at {shown(pattern)}")
    # Some files hold the characters themselves where others hold their escapes.
    return str(pattern["Regex"]).replace("\r", r"\r").replace("\n", r"\n")


def _tokens(tokenizer: Tokenizer, num_rows: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Text and type per row; rows without a token are padding."""
    texts = [f"[PAD{id}]" for id in range(num_rows)]
    types = [_UNUSED] * num_rows
    for text, id in tokenizer.get_vocab(with_added_tokens=True).items():
        if types[id] != _UNUSED:
            raise _CannotSay(f"two of its tokens have the id {id}")
        texts[id], types[id] = text, _NORMAL
    for id, token in tokenizer.get_added_tokens_decoder().items():
        types[id] = _CONTROL if token.special else _USER_DEFINED
    if len(set(texts)) < num_rows:
        raise _CannotSay("one of its tokens is named like padding")
    return tuple(texts), tuple(types)


def _merges(model: dict[str, Any]) -> tuple[str, ...]:
    pairs = [_pair(merge) for merge in model["merges"]]
    if not pairs:
        raise _CannotSay("it has no merges")
    if any(" " in part for pair in pairs for part in pair):
        raise _CannotSay("its merges hold spaces")
    return tuple(map(" ".join, pairs))


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _start(tokenizer: Tokenizer) -> Iterator[Entry]:
    """Whether the tokenizer puts one token before every text, and which."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    num_added = len(whole) - len(plain)
    if num_added not in (0, 1) or not plain or whole[num_added:] != plain:
        raise _CannotSay("it adds more to a text than one token in front")
    yield Entry(keys.ADD_BOS_TOKEN, "bool", num_added == 1)
    if num_added:
        yield Entry(keys.BOS_TOKEN_ID, "u32", whole[0])

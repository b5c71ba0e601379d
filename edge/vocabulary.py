"""A tokenizer from the ``tokenizer.ggml.*`` keys of a model file, for files that hold no other.

Only byte-level BPE (``tokenizer.ggml.model`` = ``gpt2``) is built; ids are those of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import ModelFileError, UnsupportedModelError
from edge.formats import keys
from edge.formats.gguf_file import Header
from edge.formats.pretokenizers import ADD_BOS, IGNORE_MERGES, PRE_TOKENIZERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

BYTE_LEVEL_BPE = "gpt2"
NO_VOCABULARY = "no_vocab"
MAX_TOKENS = 1 << 20
MAX_MERGES = 1 << 21
MAX_TOKEN_LENGTH = 1 << 20  # characters

# Numbers of the public format.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6
_SHOWN_CHARACTERS = 24


def holds_vocabulary(header: Header) -> bool:
    """Whether the file has a vocabulary of its own, of whatever kind."""
    model = header.metadata.get(keys.TOKENIZER_MODEL, NO_VOCABULARY)
    return not isinstance(model, str) or model != NO_VOCABULARY


def fault_of(header: Header) -> UnsupportedModelError | None:
    """Why this version cannot read the vocabulary, None when it can."""
    model, pre = (header.metadata.get(k) for k in (keys.TOKENIZER_MODEL, keys.TOKENIZER_PRE))
    if not isinstance(model, str) or model != BYTE_LEVEL_BPE:
        what, known = f"key '{keys.TOKENIZER_MODEL}' is {_shown(model)}", BYTE_LEVEL_BPE
    elif not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        found = "is missing" if pre is None else f"is {_shown(pre)}"
        what = f"key '{keys.TOKENIZER_PRE}' {found}, so nobody knows how to split a text"
        known = ", ".join(PRE_TOKENIZERS)
    else:
        return None
    hint = f"known: {known}; or convert the model with its tokenizer.json, or work on ids"
    return UnsupportedModelError(what, path=header.path, hint=hint)


def build_tokenizer(header: Header, num_rows: int) -> tuple[HuggingFaceTokenizer, int]:
    """Build the tokenizer; return it and the number of ids that mean something.

    Ids from there on stand for bytes without a token: llama.cpp leaves such a byte out, but does
    not merge what stands on either side of it. ``num_rows`` are the embedding's rows. Raises
    ModelFileError naming the key, UnsupportedModelError for what `fault_of` tells.
    """
    import tokenizers

    if fault := fault_of(header):
        raise fault
    pre = header.metadata[keys.TOKENIZER_PRE]
    tokens = _read_tokens(header, num_rows)
    types = _read_types(header, len(tokens))
    built = tokenizers.Tokenizer(_model(header, tokens, types, pre in IGNORE_MERGES))
    built.pre_tokenizer = _pre_tokenizer(PRE_TOKENIZERS[pre])
    built.decoder = tokenizers.decoders.ByteLevel()
    for special, wanted in ((True, (_CONTROL, _UNKNOWN)), (False, (_USER_DEFINED,))):
        texts = [tokens[id] for id in np.flatnonzero(np.isin(types, wanted)).tolist()]
        add = built.add_special_tokens if special else built.add_tokens
        add([tokenizers.AddedToken(text, normalized=False, special=special) for text in texts])
    _add_ends(built, *read_added_ends(header), tokens)
    return built, len(tokens)


def byte_letters() -> dict[int, str]:
    """Byte -> the letter that byte-level BPE writes for it, of all bytes that text can hold.

    Printable bytes stand for themselves, the others for U+0100 onwards (GPT-2's encoder.py).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    return {byte: letters[byte] for byte in range(0xF5) if byte not in (0xC0, 0xC1)}


def read_added_ends(header: Header) -> tuple[list[int], list[int]]:
    """Return the ids before and after each text; raises ModelFileError for contradictory keys."""
    pre = header.metadata.get(keys.TOKENIZER_PRE)
    wishes = (
        (keys.ADD_BOS_TOKEN, pre in ADD_BOS, keys.BOS_TOKEN_ID),
        (keys.ADD_EOS_TOKEN, False, keys.EOS_TOKEN_ID),
    )
    before, after = (_added_end(header, *wish) for wish in wishes)
    return before, after


def _added_end(header: Header, wish: str, default: bool, id_key: str) -> list[int]:
    is_added = header.metadata.get(wish, default)
    if not isinstance(is_added, bool):
        raise _fault(header, wish, f"is {is_added!r}, not true or false")
    if not is_added:
        return []
    id = header.metadata.get(id_key)
    num_tokens = len(header.metadata[keys.TOKENIZER_TOKENS])
    if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < num_tokens:
        found = "is missing" if id is None else f"is {id!r}"
        raise _fault(
            header, id_key, f"{found}, an id below {num_tokens} is wanted: each text gets it"
        )
    return [id]


def _add_ends(
    tokenizer: HuggingFaceTokenizer, before: list[int], after: list[int], tokens: Sequence[str]
) -> None:
    from tokenizers.processors import TemplateProcessing

    if before or after:
        names = {id: f"end{id}" for id in (*before, *after)}
        single = [*(names[id] for id in before), "$A", *(names[id] for id in after)]
        tokenizer.post_processor = TemplateProcessing(
            single=single,
            special_tokens=[
                {"id": name, "ids": [id], "tokens": [tokens[id]]} for id, name in names.items()
            ],
        )


def _read_tokens(header: Header, num_rows: int) -> Sequence[str]:
    tokens = _strings(header, keys.TOKENIZER_TOKENS, MAX_TOKENS)
    if len(tokens) > num_rows:
        problem = f"has {len(tokens)} tokens, but the embedding has {num_rows} rows"
        raise _fault(header, keys.TOKENIZER_TOKENS, problem)
    if len(set(tokens)) < len(tokens):
        seen: dict[str, int] = {}
        first, second = next(
            (seen[token], id) for id, token in enumerate(tokens) if seen.setdefault(token, id) != id
        )
        problem = f"gives the ids {first} and {second} to one token, {_shown(tokens[first])}"
        raise _fault(header, keys.TOKENIZER_TOKENS, problem)
    longest = max(map(len, tokens), default=0)
    if longest > MAX_TOKEN_LENGTH:
        problem = f"holds a token of {longest} characters, more than {MAX_TOKEN_LENGTH}"
        raise _fault(header, keys.TOKENIZER_TOKENS, problem)
    return tokens


def _strings(header: Header, key: str, most: int) -> Sequence[str]:
    values = header.metadata.get(key)
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        found = "is missing" if values is None else "is not a list of strings"
        raise _fault(header, key, found)
    if len(values) > most:
        raise _fault(header, key, f"has {len(values)} entries, more than {most}")
    return values


def _read_types(header: Header, num_tokens: int) -> np.ndarray[Any, Any]:
    values = header.metadata.get(keys.TOKENIZER_TOKEN_TYPES)
    types = np.asarray(() if values is None else values)
    if types.shape != (num_tokens,) or not np.issubdtype(types.dtype, np.integer):
        found = "is missing" if values is None else "is not a list of numbers, one per token"
        raise _fault(header, keys.TOKENIZER_TOKEN_TYPES, found)
    wrong = np.flatnonzero((types < 0) | (types > _BYTE))
    if len(wrong):
        problem = f"gives token {wrong[0]} the type {types[wrong[0]]}, not 0 to {_BYTE}"
        raise _fault(header, keys.TOKENIZER_TOKEN_TYPES, problem)
    return types


def _model(
    header: Header, tokens: Sequence[str], types: np.ndarray[Any, Any], ignore_merges: bool
) -> Any:
    from tokenizers.models import BPE

    # Unused rows only pad the embedding; a text can neither hold nor show them.
    unused = set(np.flatnonzero(types == _UNUSED).tolist())
    vocab = {token: id for id, token in enumerate(tokens) if id not in unused}
    missing = [letter for letter in byte_letters().values() if letter not in vocab]
    vocab |= {letter: len(tokens) + index for index, letter in enumerate(missing)}
    pairs = list(dict.fromkeys(_merges(header)))
    try:
        return BPE(vocab=vocab, merges=pairs, ignore_merges=ignore_merges)
    except Exception as error:  # the library raises a bare Exception
        problem = f"is refused by the tokenizers library: {error}"
        raise _fault(header, keys.TOKENIZER_MERGES, problem) from None


def _merges(header: Header) -> Iterator[tuple[str, str]]:
    for index, merge in enumerate(_strings(header, keys.TOKENIZER_MERGES, MAX_MERGES)):
        cut = merge.find(" ", 1)  # a part may begin with the space itself
        if cut < 0 or cut == len(merge) - 1:
            problem = f"holds {_shown(merge)} at {index}, two parts and a space are wanted"
            raise _fault(header, keys.TOKENIZER_MERGES, problem)
        yield merge[:cut], merge[cut + 1 :]


def _pre_tokenizer(expressions: tuple[str, ...]) -> PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    splits: list[PreTokenizer] = [
        pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions
    ]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, to_bytes])


def _fault(header: Header, key: str, problem: str) -> ModelFileError:
    return ModelFileError(header.path, None, f"key '{key}' {problem}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."

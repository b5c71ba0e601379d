"""Text to token ids and back, by the tokenizer that the model file carries whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from edge.errors import ModelFileError, RequestError
from edge.formats import keys
from edge.formats.gguf_file import Header

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """``tokenizer.huggingface.json`` of a model file, loaded by the tokenizers library."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def from_header(cls, header: Header, vocab_size: int = 1 << 31) -> Tokenizer | None:
        """Return the file's tokenizer, None when it has none.

        Raises ModelFileError for one that is damaged or has ids of ``vocab_size`` or more.
        """
        source = header.metadata.get(keys.TOKENIZER_JSON)
        if source is None:
            return None
        if not isinstance(source, str):
            raise ModelFileError(header.path, None, f"key '{keys.TOKENIZER_JSON}' is not a string")
        try:
            tokenizer = HuggingFaceTokenizer.from_str(source)
            largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a bare Exception, or a panic, which is not even that
            reason = f"key '{keys.TOKENIZER_JSON}' holds no usable tokenizer: {error}"
            raise ModelFileError(header.path, None, reason[:400]) from None
        if largest >= vocab_size:
            reason = (
                f"key '{keys.TOKENIZER_JSON}' has the token id {largest}, "
                f"but the embedding has {vocab_size} rows"
            )
            raise ModelFileError(header.path, None, reason)
        return cls(tokenizer)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text; raises RequestError for lone surrogates."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the prompt holds a lone surrogate at character {error.start}",
                hint="give text that is valid Unicode",
            ) from None
        return np.array(self._tokenizer.encode(text, add_special_tokens=True).ids, np.int32)

    def decode(self, ids: NDArray[np.int32]) -> str:
        """Return the text of some ids, special tokens left out."""
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        return text

    def piece(self, token_id: int) -> str:
        """Return the text of one token, special tokens included."""
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text


class TextStream:
    """Turns a growing list of ids into pieces of text that never have to be taken back.

    Bytes of an unfinished character are held until the character is whole or the end comes.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._num_ids = 0
        self._text = ""

    def advance(
        self, ids: NDArray[np.int32], *, at_end: bool = False
    ) -> tuple[str | None, list[int]]:
        """Return text and ids that are new; ``ids`` are all so far."""
        new_ids = ids[self._num_ids :].tolist()
        if self._tokenizer is None:
            self._num_ids = len(ids)
            return None, new_ids
        text = self._tokenizer.decode(ids)
        if not at_end and text.endswith(REPLACEMENT):
            return "", []
        self._num_ids = len(ids)
        new_text = text[len(self._text) :]
        self._text = text
        return new_text, new_ids

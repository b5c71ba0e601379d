"""Text to token ids and back.

A model file carries its tokenizer whole (``tokenizer.huggingface.json``, the truth where it is
present) or, as foreign files do, in the ``tokenizer.ggml.*`` keys. What a user writes never
becomes a control token; those come from a chat template only.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders
from tokenizers import Tokenizer as HuggingFaceTokenizer

from edge.config import ModelConfig
from edge.errors import ModelFileError, RequestError
from edge.formats import keys
from edge.formats.gguf_file import Header
from edge.template import Rendering, refuse_surrogates
from edge.vocabulary import build_tokenizer, byte_letters, holds_vocabulary

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_log = logging.getLogger(__name__)
_SHOWN_BYTES = 8


class Tokenizer:
    """A tokenizer of the tokenizers library, told apart what is text and what is control.

    ``controls`` are ids that no text may give besides the tokens that are special anyway;
    ``num_ids`` bounds the ids that mean something, those above stand for bytes without a token.
    """

    def __init__(
        self,
        tokenizer: HuggingFaceTokenizer,
        *,
        controls: Collection[int] = (),
        num_ids: int = 1 << 31,
    ) -> None:
        added = tokenizer.get_added_tokens_decoder()
        tokenizer.add_special_tokens([_as_special(added[id]) for id in controls if id in added])
        tokenizer.encode_special_tokens = True  # they are read as the plain text they look like
        self._tokenizer = tokenizer
        self._num_ids = num_ids
        self._controls = _Controls(tokenizer.get_added_tokens_decoder())
        self.missing_bytes = _missing_bytes(tokenizer, num_ids)

    @classmethod
    def from_header(cls, header: Header, config: ModelConfig) -> Tokenizer | None:
        """Return the file's tokenizer, None when it has none.

        Raises ModelFileError for one that is damaged or has ids beyond the embedding's rows,
        UnsupportedModelError for a vocabulary that this version cannot read.
        """
        source = header.metadata.get(keys.TOKENIZER_JSON)
        diffusion, num_rows = config.diffusion, config.denoiser.vocab_size
        # In place, a mask token in the prompt is how a hole is written.
        writable = diffusion.mask_token_id if diffusion.in_place else None
        controls = {*diffusion.eos_ids, diffusion.mask_token_id} - {writable}
        if source is not None:
            return cls(_from_json(header, source, num_rows, writable), controls=controls)
        if not holds_vocabulary(header):
            return None
        loaded, num_ids = build_tokenizer(header, num_rows)
        return cls(loaded, controls=controls, num_ids=num_ids)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text with what the tokenizer puts before and after each text.

        Raises RequestError for lone surrogates.
        """
        refuse_surrogates(text)
        return self._ids(self._tokenizer.encode(text, add_special_tokens=True).ids, text)

    def encode_parts(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the ids of each text by itself; the first and the last have the text's ends.

        These ends are what the tokenizer puts before and after each text. Raises RequestError
        for lone surrogates.
        """
        for text in texts:
            refuse_surrogates(text)
        ends = self._tokenizer.encode("a", add_special_tokens=True)
        own = [index for index, special in enumerate(ends.special_tokens_mask) if not special]
        start, stop = (own[0], own[-1] + 1) if own else (len(ends.ids), len(ends.ids))
        parts = [self._tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        if parts:
            parts[0] = ends.ids[:start] + parts[0]
            parts[-1] = parts[-1] + ends.ids[stop:]
        return [self._ids(ids, text) for ids, text in zip(parts, texts, strict=True)]

    def encode_rendering(self, rendering: Rendering) -> NDArray[np.int32]:
        """Return the ids of a rendered conversation; the template's control tokens are such.

        Raises RequestError when a message holds the text of a control token and the template
        has moved it about so that nobody can tell which is which.
        """
        ids: list[int] = []
        for start, stop, control in self._segments(rendering):
            if control is None:
                segment = rendering.text[start:stop]
                ids += self._tokenizer.encode(segment, add_special_tokens=False).ids
            else:
                ids.append(control)
        return self._ids(ids, "".join(rendering.contents))

    def can_write(self, text: str) -> bool:
        """Whether a text has tokens, none of which stands for what the model does not know.

        Raises RequestError for lone surrogates.
        """
        refuse_surrogates(text)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        unknown_id = None if unknown is None else self._tokenizer.token_to_id(unknown)
        lost = self.missing_bytes.intersection(text.encode())
        return bool(ids) and unknown_id not in ids and not lost

    def decode(self, ids: NDArray[np.int32]) -> str:
        """Return the text of some ids, special tokens left out."""
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        return text

    def piece(self, token_id: int) -> str:
        """Return the text of one token, special tokens included."""
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text

    def token(self, token_id: int) -> str | None:
        """Return how one token is written in the vocabulary, None for an id without a token."""
        written: str | None = self._tokenizer.id_to_token(token_id)
        return written

    def _segments(self, rendering: Rendering) -> Iterator[tuple[int, int, int | None]]:
        """(start, stop, id) of the control tokens in a rendered text, None for what is between."""
        begin = 0
        is_aligned = rendering.is_aligned
        searched = rendering.marked if is_aligned else rendering.text
        for start, stop, token, id in self._controls.find(searched):
            if not is_aligned and any(token in content for content in rendering.contents):
                raise RequestError(
                    f"a message holds {token!r}, which means something in the chat template",
                    hint="take it out of the message",
                )
            yield begin, start, None
            yield start, stop, id
            begin = stop
        yield begin, len(searched), None

    def _ids(self, ids: list[int], text: str) -> NDArray[np.int32]:
        lost = sorted(self.missing_bytes.intersection(text.encode())) if self.missing_bytes else []
        if lost:
            shown = ", ".join(f"{byte:#04x}" for byte in lost[:_SHOWN_BYTES])
            more = ", ..." if len(lost) > _SHOWN_BYTES else ""
            _log.warning(
                "the model has no token for the bytes %s%s; they are left out", shown, more
            )
        return np.array([id for id in ids if id < self._num_ids], np.int32)


class _Controls:
    """Finds control tokens in a text, as the tokenizers library does among added tokens."""

    def __init__(self, added: dict[int, AddedToken]) -> None:
        special = [(token, id) for id, token in added.items() if token.special and token.content]
        self._tokens = sorted(special, key=lambda entry: len(entry[0].content), reverse=True)
        self._any = re.compile("|".join(f"({_pattern(t)})" for t, _ in self._tokens) or "(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int, str, int]]:
        """Yield (start, stop, token, id) of each; of two at one place the longer one."""
        for found in self._any.finditer(text):
            token, id = self._tokens[(found.lastindex or 1) - 1]
            yield found.start(), found.end(), token.content, id


def _pattern(token: AddedToken) -> str:
    before, after = r"\s*" * token.lstrip, r"\s*" * token.rstrip
    content = re.escape(token.content)
    return before + (rf"(?<!\w){content}(?!\w)" if token.single_word else content) + after


def _from_json(
    header: Header, source: object, num_rows: int, writable: int | None
) -> HuggingFaceTokenizer:
    if not isinstance(source, str):
        raise ModelFileError(header.path, None, f"key '{keys.TOKENIZER_JSON}' is not a string")
    try:
        loaded = HuggingFaceTokenizer.from_str(source)
        largest = max(loaded.get_vocab(with_added_tokens=True).values(), default=-1)
        if writable in loaded.get_added_tokens_decoder():
            loaded = HuggingFaceTokenizer.from_str(_as_text(source, writable))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a bare Exception, or a panic, which is not even that
        reason = f"key '{keys.TOKENIZER_JSON}' holds no usable tokenizer: {error}"
        raise ModelFileError(header.path, None, reason[:400]) from None
    if largest >= num_rows:
        reason = (
            f"key '{keys.TOKENIZER_JSON}' has the token id {largest}, "
            f"but the embedding has {num_rows} rows"
        )
        raise ModelFileError(header.path, None, reason)
    return loaded


def _as_text(source: str, token_id: int | None) -> str:
    """The same tokenizer with one added token that everyone may write."""
    content = json.loads(source)
    for token in content["added_tokens"]:
        token["special"] = token["special"] and token["id"] != token_id
    return json.dumps(content)


def _as_special(token: AddedToken) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


def _missing_bytes(tokenizer: HuggingFaceTokenizer, num_ids: int) -> frozenset[int]:
    """Bytes of text that a byte-level vocabulary has no token for; the library drops them."""
    if not isinstance(tokenizer.decoder, decoders.ByteLevel):
        return frozenset()
    ids = {byte: tokenizer.token_to_id(letter) for byte, letter in byte_letters().items()}
    return frozenset(byte for byte, id in ids.items() if id is None or id >= num_ids)


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

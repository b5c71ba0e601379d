"""How a prompt or a conversation becomes the ids that a model is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import repr as shown

import numpy as np
from numpy.typing import NDArray

from edge.config import ModelConfig
from edge.errors import ModelFileError, UnsupportedModelError
from edge.formats import keys
from edge.formats.gguf_file import Header
from edge.template import ChatTemplate
from edge.tokenizer import Tokenizer

_NAMES_IN_TEMPLATES = {
    "bos_token": keys.BOS_TOKEN_ID,
    "eos_token": keys.EOS_TOKEN_ID,
    "pad_token": keys.PADDING_TOKEN_ID,
    "mask_token": keys.MASK_TOKEN_ID,
}


class Prompting:
    """Tokenizer and chat template of a model file.

    A file whose vocabulary cannot be read has no tokenizer, and still works on ids; asking for
    text then raises the reason.
    """

    def __init__(self, header: Header, config: ModelConfig) -> None:
        """Raises ModelFileError."""
        self._path = header.path
        self._fault: UnsupportedModelError | None = None
        self.tokenizer: Tokenizer | None = None
        try:
            self.tokenizer = Tokenizer.from_header(header, config)
        except UnsupportedModelError as fault:
            self._fault = fault
        self._template = ChatTemplate.from_header(header)
        self._has_turns = self._template is not None and not config.diffusion.in_place
        self._special_tokens = self._named_tokens(header, config.denoiser.vocab_size)
        padding = header.metadata.get(keys.PADDING_TOKEN_ID)
        ends = {*config.diffusion.eos_ids, *(() if padding is None else (padding,))}
        self.end_ids = tuple(ends - {config.diffusion.mask_token_id})

    def encode(self, prompt: str, *, raw: bool) -> NDArray[np.int32]:
        """Return the ids of one user turn, or of the text itself; raises like ``encode_chat``."""
        tokenizer = self.require_tokenizer()
        if raw or not self._has_turns:
            return tokenizer.encode(prompt)
        return self.encode_chat([{"role": "user", "content": prompt}])

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> NDArray[np.int32]:
        """Return the ids of a conversation.

        Raises UnsupportedModelError without tokenizer or template, RequestError, ModelFileError.
        """
        tokenizer, template = self.require_tokenizer(), self.require_template()
        rendering = template.render(messages, special_tokens=self._special_tokens)
        return tokenizer.encode_rendering(rendering)

    def require_template(self) -> ChatTemplate:
        """Return the chat template; raises UnsupportedModelError where there is none."""
        if self._template is None:
            raise UnsupportedModelError(
                "the model file has no chat template",
                path=self._path,
                hint="continue a text with generate (edge run), or choose a model that chats",
            )
        return self._template

    def require_tokenizer(self) -> Tokenizer:
        """Return the tokenizer; raises UnsupportedModelError with the reason why there is none."""
        if self._fault is not None:
            raise self._fault
        if self.tokenizer is None:
            raise UnsupportedModelError(
                "the model file has no tokenizer",
                path=self._path,
                hint="convert it with its tokenizer.json, or use generate_ids",
            )
        return self.tokenizer

    def _named_tokens(self, header: Header, num_rows: int) -> dict[str, str]:
        """What a chat template may write by name, such as ``bos_token``."""
        written = {}
        for name, key in _NAMES_IN_TEMPLATES.items():
            id = header.metadata.get(key)
            if id is None:
                continue
            if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < num_rows:
                reason = f"key '{key}' is {shown(id)}, not a token id below {num_rows}"
                raise ModelFileError(header.path, None, reason)
            written[name] = None if self.tokenizer is None else self.tokenizer.token(id)
        return {name: token for name, token in written.items() if token is not None}

"""What a checkpoint's tokenizer files say about its tokens.

Tokens that were added to a vocabulary may be named in tokenizer.json, in added_tokens.json, in
tokenizer_config.json, or in several of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert import json_file
from edge.errors import ModelFileError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"
ROLES = ("mask_token", "bos_token", "eos_token", "pad_token")

_HINT = "correct it or fetch it again"


@dataclass(frozen=True)
class StoredTokenizer:
    """tokenizer.json as it stands, parsed, and loaded."""

    path: Path
    json: str
    content: dict[str, Any]
    loaded: Tokenizer

    @property
    def largest_id(self) -> int:
        """The largest id it can give."""
        return max(self.loaded.get_vocab(with_added_tokens=True).values(), default=0)


@dataclass(frozen=True)
class TokenNames:
    """Names and ids of the added tokens as all files give them; they may disagree.

    `roles` are the tokens that tokenizer_config.json names, by role (``mask_token`` ...).
    """

    added: tuple[tuple[str, int], ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)

    def id_of(self, role: str) -> int | None:
        """The id of the token in that role, None when it has none or several."""
        ids = {id for name, id in self.added if name == self.roles.get(role)}
        return ids.pop() if len(ids) == 1 else None


def read_tokenizer(path: Path | None, limit_bytes: int) -> StoredTokenizer | None:
    """The tokenizer, None without a file. Raises ModelFileError for an unusable one."""
    from tokenizers import Tokenizer

    if path is None:
        return None
    text = json_file.read_text(path, limit_bytes)
    content = json_file.parse_object(text, path)
    try:
        loaded = Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        reason = f"tokenizer.json is refused by the tokenizers library: {error}"
        raise ModelFileError(path, None, reason) from None
    return StoredTokenizer(path, text, content, loaded)


def read_token_names(
    tokenizer: StoredTokenizer | None, settings: dict[str, Any], added: dict[str, Any], folder: Path
) -> TokenNames:
    """Gather the names; `settings` is tokenizer_config.json, `added` is added_tokens.json.

    Raises ModelFileError naming the file and the entry that cannot be.
    """
    found = set(_of_tokenizer(tokenizer))
    found.update(_of_added_tokens(added, folder / ADDED_TOKENS))
    found.update(_of_settings(settings, folder / TOKENIZER_CONFIG))
    return TokenNames(tuple(sorted(found)), dict(_roles(settings, folder / TOKENIZER_CONFIG)))


def _of_tokenizer(tokenizer: StoredTokenizer | None) -> Iterator[tuple[str, int]]:
    if tokenizer:
        for id, token in tokenizer.loaded.get_added_tokens_decoder().items():
            yield token.content, id


def _of_added_tokens(added: dict[str, Any], path: Path) -> Iterator[tuple[str, int]]:
    for name, id in added.items():
        if isinstance(id, bool) or not isinstance(id, int):
            raise _fault(path, name, id, "an id")
        yield name, id


def _of_settings(settings: dict[str, Any], path: Path) -> Iterator[tuple[str, int]]:
    key = "added_tokens_decoder"
    listed = settings.get(key) or {}
    if not isinstance(listed, dict):
        raise _fault(path, key, listed, "an object")
    for id, token in listed.items():
        name = token.get("content") if isinstance(token, dict) else None
        if not id.isdecimal() or len(id) > 10 or not isinstance(name, str):
            raise _fault(path, id, token, "an id and the token's content")
        yield name, int(id)


def _roles(settings: dict[str, Any], path: Path) -> Iterator[tuple[str, str]]:
    for role in ROLES:
        value = settings.get(role)
        name = value.get("content") if isinstance(value, dict) else value
        if isinstance(name, str):
            yield role, name
        elif name is not None:
            raise _fault(path, role, value, "a token's content")


def _fault(path: Path, key: str, value: object, wanted: str) -> ModelFileError:
    reason = f"{json_file.shown(key)} is {json_file.shown(value)}, {wanted} is wanted"
    return ModelFileError(path, None, f"{path.name}: {reason}", hint=_HINT)

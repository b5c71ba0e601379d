"""Which ids are special: the mask token, the ends of an answer, and what foreign readers ask for.

The mask token is often in the tokenizer's files only, since it was added to an autoregressive
model's vocabulary later. It is never guessed: all matching names must mean one id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convert.checkpoint import GENERATION_CONFIG
from convert.json_file import shown
from convert.metadata import SETTINGS, Entry, describe
from convert.models.base import Choices, ConfigReader
from edge.errors import ModelFileError, RequestError
from edge.formats import keys

MASK_NAMES = ("<|mask|>", "|<MASK>|", "<|MASK|>", "<MASK>", "[MASK]", "<mask>")
MOST_EOS_IDS = 64
_MOST_NAMES = 20


@dataclass(frozen=True)
class SpecialTokens:
    """Ids below the embedding's rows."""

    mask: int
    eos: tuple[int, ...]
    bos: int | None
    padding: int | None

    def entries(self) -> Iterator[Entry]:
        """The ``tokenizer.ggml.*_token_id`` keys."""
        yield Entry(keys.MASK_TOKEN_ID, "u32", self.mask)
        if self.eos:
            yield Entry(keys.EOS_TOKEN_ID, "u32", self.eos[0])
        if self.padding is not None:
            yield Entry(keys.PADDING_TOKEN_ID, "u32", self.padding)
        if self.bos is not None:
            yield Entry(keys.BOS_TOKEN_ID, "u32", self.bos)


def read_special_tokens(config: ConfigReader, choices: Choices, num_rows: int) -> SpecialTokens:
    """Read them from config.json, generation_config.json and the tokenizer's files.

    Raises ModelFileError for ids that cannot be or a mask token that is not named, RequestError
    for the caller's.
    """
    return SpecialTokens(
        mask=_mask_token_id(config, choices, num_rows),
        eos=_eos_ids(config, num_rows),
        bos=_token_id(config, "bos_token", num_rows),
        padding=_token_id(config, "pad_token", num_rows),
    )


def _token_id(config: ConfigReader, role: str, num_rows: int) -> int | None:
    """config.json's id, else that of the token which tokenizer_config.json names."""
    found = config.token_id(f"{role}_id", num_rows)
    return _named_id(config, role, num_rows) if found is None else found


def _named_id(config: ConfigReader, role: str, num_rows: int) -> int | None:
    id = config.checkpoint.token_names.id_of(role)
    return id if id is not None and id < num_rows else None


def ids_fit(ids: tuple[int, ...], num_rows: int) -> bool:
    """True when the ids may be ends of an answer."""
    return len(ids) <= MOST_EOS_IDS and max(ids) < num_rows


def wanted_ids(num_rows: int) -> str:
    """What `ids_fit` asks for, in words."""
    return f"at most {MOST_EOS_IDS} ids below {num_rows}"


def _eos_ids(config: ConfigReader, num_rows: int) -> tuple[int, ...]:
    """config.json's, then those that only generation_config.json or the tokenizer names."""
    checkpoint = config.checkpoint
    try:
        own = _ids(config.get("eos_token_id"), num_rows)
    except ValueError as error:
        raise config.fault("eos_token_id", str(error)) from None
    value = checkpoint.generation_config.get("eos_token_id")
    try:
        named = _named_id(config, "eos_token", num_rows)
        both = tuple(dict.fromkeys(own + _ids(value, num_rows) + _ids(named, num_rows)))
        if both and not ids_fit(both, num_rows):
            raise ValueError(wanted_ids(num_rows))
    except ValueError as error:
        reason = describe("eos_token_id", value, str(error))
        path = checkpoint.folder / GENERATION_CONFIG
        raise ModelFileError(path, None, reason, hint="correct it or fetch it again") from None
    return both


def _ids(value: object, num_rows: int) -> tuple[int, ...]:
    if value is None or value == []:
        return ()
    ids: tuple[int, ...] = SETTINGS[keys.EOS_IDS].entry(value).value
    if not ids_fit(ids, num_rows):
        raise ValueError(wanted_ids(num_rows))
    return ids


def _mask_token_id(config: ConfigReader, choices: Choices, num_rows: int) -> int:
    chosen = choices.mask_token_id
    if chosen is not None:
        if not 0 <= chosen < num_rows:
            what = f"mask token id {chosen} is outside the embedding's {num_rows} rows"
            raise RequestError(what, hint=f"give --mask-token-id 0 to {num_rows - 1}")
        return chosen
    found = config.token_id("mask_token_id", num_rows)
    return _mask_of_tokenizer(config, num_rows) if found is None else found


def _mask_of_tokenizer(config: ConfigReader, num_rows: int) -> int:
    names = config.checkpoint.token_names
    matches = {
        entry for entry in names.added if entry[0] in {*MASK_NAMES, names.roles.get("mask_token")}
    }
    ids = {id for _, id in matches}
    if len(ids) != 1:
        raise _unnamed_mask(config, sorted(matches))
    mask = ids.pop()
    if not 0 <= mask < num_rows:
        name = shown(min(matches)[0])
        reason = f"the tokenizer's {name} has id {mask}, the embedding has {num_rows} rows"
        hint = "use the tokenizer of this very checkpoint, or give --mask-token-id N"
        raise ModelFileError(config.checkpoint.folder, None, reason, hint=hint)
    return mask


def _unnamed_mask(config: ConfigReader, matches: list[tuple[str, int]]) -> ModelFileError:
    checkpoint = config.checkpoint
    added = checkpoint.token_names.added
    similar = matches or [entry for entry in added if "mask" in entry[0].lower()]
    listed = ", ".join(f"{shown(name)} is {id}" for name, id in similar[:_MOST_NAMES])
    reason = "config.json has no mask_token_id"
    if matches:
        reason += f" and the tokenizer has several: {listed}"
    elif similar:
        reason += f" and no name of the tokenizer is a known one: {listed}"
    elif added:
        reason += " and nothing in the tokenizer looks like a mask"
    hint = "give it with --mask-token-id N"
    return ModelFileError(checkpoint.config_path, None, reason, hint=hint)

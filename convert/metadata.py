"""The typed key-value pairs of a model file, and the keys a user may set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from convert.json_file import shown
from edge.formats import keys

Kind = Literal["u32", "f32", "bool", "string", "u32s", "i32s", "bools", "strings"]
_WANTED = {
    "u32": f"a whole number from 0 to {2**32 - 1}",
    "f32": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "u32s": f"whole numbers from 0 to {2**32 - 1}",
}


@dataclass(frozen=True)
class Entry:
    """One key of the file. A kind in the plural has a tuple as its value."""

    key: str
    kind: Kind
    value: Any

    @property
    def text_bytes(self) -> int:
        """Bytes of its texts, length fields included."""
        texts = self.value if self.kind == "strings" else ()
        texts = (self.value,) if self.kind == "string" else texts
        return sum(8 + len(text.encode()) for text in texts)

    def stored(self) -> Any:
        """The value as a reader sees it: float32 rounds."""
        return float(np.float32(self.value)) if self.kind == "f32" else self.value


@dataclass(frozen=True)
class Setting:
    """A key that config.json's `diffusion` object and ``--set`` may give."""

    key: str
    kind: Kind
    choices: Mapping[str, str] | None = None  # spelling -> what is written
    low: float = -math.inf
    high: float = math.inf

    def wanted(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if math.isinf(self.low):
            return _WANTED[self.kind]
        return f"{_WANTED[self.kind].partition(' from ')[0]} from {self.low:g} to {self.high:g}"

    def entry(self, value: object) -> Entry:
        """The checked entry. Raises ValueError saying what is wanted."""
        if self.kind == "f32" and _is_number(value):
            value = float(value)  # type: ignore[arg-type]
        elif self.kind == "u32s":
            value = (value,) if isinstance(value, int) else value
            value = tuple(value) if isinstance(value, list | tuple) else value
        elif self.choices and isinstance(value, str):
            value = self.choices.get(value)
        if not _is_kind(self.kind, value) or not self._is_inside(value):
            raise ValueError(self.wanted())
        return Entry(self.key, self.kind, value)

    def entry_from_text(self, text: str) -> Entry:
        """The entry for ``--set key=text``. Raises ValueError saying what is wanted."""
        try:
            return self.entry(_FROM_TEXT[self.kind](text))
        except (KeyError, ValueError, OverflowError):
            raise ValueError(self.wanted()) from None

    def _is_inside(self, value: Any) -> bool:
        return not isinstance(value, int | float) or self.low <= value <= self.high


_BOOLEANS = {"true": True, "false": False}
_FROM_TEXT: dict[str, Callable[[str], object]] = {
    "u32": int,
    "f32": float,
    "bool": lambda text: _BOOLEANS[text.lower()],
    "string": str,
    "u32s": lambda text: [int(part) for part in text.split(",")],
}
_ATTENTIONS = {
    "full": "full",
    "bidirectional": "full",
    "block": "block",
    "block_causal": "block",
    "causal_context": "causal_context",
}
_RANKS = {name: name for name in ("confidence", "margin", "entropy", "random")}
_SETTINGS = (
    Setting(keys.NOISE, "string", {"mask": "mask", "uniform": "uniform"}),
    Setting(keys.ATTENTION, "string", _ATTENTIONS),
    Setting(keys.CANVAS, "string", {"append": "append", "in_place": "in_place"}),
    Setting(keys.CANVAS_LENGTH, "u32", low=1, high=2**32 - 1),
    Setting(keys.BLOCK_LENGTH, "u32", low=1, high=2**32 - 1),
    Setting(keys.BLOCK_ALIGN, "string", {"absolute": "absolute", "prompt_end": "prompt_end"}),
    Setting(keys.SUB_BLOCK_LENGTH, "u32", low=1, high=2**32 - 1),
    Setting(keys.SHIFT_LOGITS, "bool"),
    Setting(keys.SAMPLER, "string"),
    Setting(keys.STEPS_PER_BLOCK, "u32", low=1, high=2**32 - 1),
    Setting(keys.THRESHOLD, "f32", low=1e-6, high=1),
    Setting(keys.EDIT_THRESHOLD, "f32", low=1e-6, high=1),
    Setting(keys.POST_EDIT_STEPS, "u32", low=0, high=2**28),
    Setting(keys.FACTOR, "f32", low=1e-6, high=1e6),
    Setting(keys.ENTROPY_BOUND, "f32", low=1e-6, high=1e6),
    Setting(keys.RANK, "string", _RANKS),
    Setting(keys.EOS_IDS, "u32s"),
    Setting(keys.TASK, "string"),
    Setting(keys.NAME, "string"),
)
_SCALARS: tuple[Kind, ...] = ("bool", "string", "f32", "u32")
_I32 = range(-(2**31), 2**31)
SETTINGS = {setting.key: setting for setting in _SETTINGS}


def kind_of(key: str, value: Any) -> Kind | None:
    """How a value that was read is written, None for what no kind holds; a list is a tuple."""
    if not isinstance(value, tuple):
        return next((kind for kind in _SCALARS if _is_kind(kind, value)), None)
    if value and all(isinstance(each, bool) for each in value):
        return "bools"
    if value and all(isinstance(each, str) for each in value):
        return "strings"
    if not all(isinstance(each, int) and each in _I32 for each in value) or key in SETTINGS:
        return "u32s" if _is_kind("u32s", value) else None
    return "i32s" if value else None


def text_is_storable(text: str) -> bool:
    """True when the text is not empty and has a UTF-8 form (no lone surrogates)."""
    try:
        return bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def summary(entries: Mapping[str, Entry], longest: int = 200) -> dict[str, Any]:
    """Key -> value for a report; what has more than `longest` parts becomes their number."""
    return {key: _shortened(entry, longest) for key, entry in entries.items()}


def _shortened(entry: Entry, longest: int) -> Any:
    if entry.kind == "string" and len(entry.value) > longest:
        return f"<{len(entry.value.encode())} bytes>"
    if isinstance(entry.value, tuple) and len(entry.value) > longest:
        return f"<{len(entry.value)} values>"
    return entry.stored()


def describe(key: str, value: object, wanted: str) -> str:
    """The one sentence every refused value gets."""
    return f"{key} is {shown(value)}, {wanted} is wanted"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_kind(kind: Kind, value: Any) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str) and text_is_storable(value)
    if kind == "u32s":
        return isinstance(value, tuple) and len(value) > 0 and all(map(_is_u32, value))
    if kind == "u32":
        return _is_u32(value)
    return isinstance(value, float) and abs(value) <= np.finfo(np.float32).max


def _is_u32(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32

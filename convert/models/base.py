"""What every model family declares: its tensors, its keys, and how it reads config.json."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.metadata import Entry, describe
from convert.source import Source
from edge.errors import ModelFileError, UnsupportedModelError

Role = Literal["norm", "bias", "embedding", "head", "linear", "router", "table", "gate"]
# Tables that a model makes from its settings and old checkpoints store nevertheless.
_IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)
_MOST_NAMES = 100
_PART_VALUES = 1 << 21  # 8 MiB in float32
_CONFIG_HINT = "correct config.json or fetch it again"


@dataclass(frozen=True)
class Rows:
    """`count` neighbouring rows of a tensor."""

    first: int
    count: int


@dataclass(frozen=True)
class TensorSpec:
    """One tensor the runtime expects, and where the checkpoint keeps it."""

    source: str
    target: str
    shape: tuple[int, ...]
    role: Role
    rope_heads: int = 0  # above 0: rows go from half-split to adjacent-pair rotation, per head

    @property
    def num_values(self) -> int:
        """How many values the tensor has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def parts(self) -> list[Rows]:
        """Neighbouring rows that fit in memory well, whole heads, in order."""
        if len(self.shape) < 2:
            return [Rows(0, self.shape[0])]
        num_rows = self.shape[0]
        unit = num_rows // (self.rope_heads or num_rows)
        step = max(1, _PART_VALUES // (unit * math.prod(self.shape[1:]))) * unit
        return [Rows(first, min(step, num_rows - first)) for first in range(0, num_rows, step)]

    def load(self, source: Source, rows: Rows | None = None) -> NDArray[np.float32]:
        """The values in the runtime's order, `shape`, or those of one of the `parts`.

        Raises ModelFileError if they are not finite.
        """
        rows = rows or Rows(0, self.shape[0])
        values = source.tensors[self.source].values(rows.first, rows.count)
        if not self.rope_heads:
            return values
        return pair_rope_rows(values, self.rope_heads * rows.count // self.shape[0])


@dataclass(frozen=True)
class Spec:
    """Everything one checkpoint becomes.

    `num_rows` counts the embedding's rows, `dropped` are tensors that are stored elsewhere,
    `notes` are sentences for the user.
    """

    architecture: str
    num_rows: int
    tensors: tuple[TensorSpec, ...]
    entries: tuple[Entry, ...]
    dropped: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def validate(self, source: Source) -> None:
        """Raise ModelFileError listing all missing, extra and wrongly shaped tensors."""
        wanted = {tensor.source: tensor.shape for tensor in self.tensors}
        left_out = self.dropped | ignored(source)
        found = {name: tensor.shape for name, tensor in source.tensors.items()}
        wrong = [
            f"{name} is {shape_text(found[name])}, wanted {shape_text(shape)}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape
        ]
        faults = (
            _list("missing", folded(wanted.keys() - found.keys())),
            _list("extra", folded(found.keys() - wanted.keys() - left_out)),
            _list("wrong shape", wrong),
        )
        if reason := "; ".join(filter(None, faults)):
            hint = "make its settings and its weights agree; another model cannot be converted"
            raise ModelFileError(source.path, None, f"tensors {reason}", hint=hint)


@dataclass(frozen=True)
class Choices:
    """What the caller said about this conversion."""

    mask_token_id: int | None = None
    settings: Mapping[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfigReader:
    """Typed, bounded reads of config.json. Each raises ModelFileError naming key and value.

    `section` is the object within config.json that is read, its top level when empty.
    """

    checkpoint: Checkpoint
    section: str = ""

    def get(self, key: str) -> Any:
        """The raw value, None when absent."""
        return self._values.get(key)

    def within(self, section: str) -> ConfigReader:
        """A reader of that object. Raises ModelFileError for anything else, save null."""
        if not isinstance(self.get(section), dict | None):
            raise self.fault(section, "null or an object")
        return ConfigReader(self.checkpoint, section)

    def count(self, key: str, high: int, default: int | None = None) -> int:
        """A whole number from 1 to `high`; `default` where it is absent or null."""
        return self._whole(key, 1, high, default)

    def token_id(self, key: str, num_rows: int) -> int | None:
        """An id below `num_rows`, None where it is absent or null."""
        return None if self.get(key) is None else self._whole(key, 0, num_rows - 1, None)

    def require_rows_for_tokenizer(self, num_rows: int) -> None:
        """Raise ModelFileError when tokenizer.json gives ids beyond the embedding."""
        tokenizer = self.checkpoint.tokenizer
        if tokenizer and tokenizer.largest_id >= num_rows:
            reason = f"tokenizer.json gives id {tokenizer.largest_id}, "
            reason += f"the embedding has {num_rows} rows"
            hint = "use the tokenizer of this very checkpoint"
            raise ModelFileError(tokenizer.path, None, reason, hint=hint)

    def number(self, key: str, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise self.fault(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean; `default` where it is absent or null."""
        value = self.get(key)
        if not isinstance(value, bool | None):
            raise self.fault(key, "true or false")
        return default if value is None else value

    def fault(self, key: str, wanted: str) -> ModelFileError:
        """The error for a missing or impossible value."""
        name = f"{self.section}.{key}" if self.section else key
        missing = key not in self._values
        reason = f"config.json has no {name}, {wanted} is wanted" if missing else ""
        reason = reason or describe(name, self.get(key), wanted)
        return ModelFileError(self.checkpoint.config_path, None, reason, hint=_CONFIG_HINT)

    def require(self, wanted: Mapping[str, object]) -> None:
        """Raise UnsupportedModelError naming every key whose value is not the wanted one."""
        wrong = [
            f"{key} is {shown(self.get(key))} ({shown(value)} is supported)"
            for key, value in wanted.items()
            if self.get(key) != value or type(self.get(key)) is not type(value)
        ]
        if wrong:
            raise UnsupportedModelError(
                ", ".join(wrong),
                path=self.checkpoint.config_path,
                hint="this kind of model cannot be converted",
            )

    @property
    def _values(self) -> dict[str, Any]:
        config = self.checkpoint.config
        return config.get(self.section) or {} if self.section else config

    def _whole(self, key: str, low: int, high: int, default: int | None) -> int:
        value = default if self.get(key) is None else self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fault(key, f"a whole number from {low} to {high}")
        return value


def pair_rope_rows(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder `[heads * head_dim, cols]`: row i and i + head_dim/2 of a head become neighbours.

    A rotation of the two halves of a head becomes one of adjacent pairs, which is what llama.cpp
    does for `llama` and `llada`; every dot product of a query and a key stays as it was.
    """
    rows, cols = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, cols)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, cols)


def ignored(source: Source) -> frozenset[str]:
    """Names of tensors that carry nothing: the runtime computes them itself."""
    return frozenset(name for name in source.tensors if name.endswith(_IGNORED_SUFFIXES))


def folded(names: Iterable[str]) -> list[str]:
    """Names that differ in one number only become one: ``blocks.{0-2,5}.ff_norm.weight``."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    plain = []
    for name in names:
        if match := re.fullmatch(r"(\D*\.)(0|[1-9]\d{0,8})(\..*)", name, re.DOTALL):
            groups[match[1], match[3]].append(int(match[2]))
        else:
            plain.append(name)
    return sorted(plain + [f"{head}{_ranges(ids)}{tail}" for (head, tail), ids in groups.items()])


def _ranges(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    parts = (str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return "{" + ",".join(parts) + "}"


def _list(kind: str, names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMES
    shortened = [name[:200] for name in names[:_MOST_NAMES]]
    more = f" and {rest} more" if rest > 0 else ""
    return f"{kind}: {', '.join(shortened)}{more}" if names else ""


def shape_text(shape: Sequence[int]) -> str:
    """``3x4``, for messages."""
    return "x".join(map(str, shape)) or "a scalar"

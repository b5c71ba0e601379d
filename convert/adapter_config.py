"""adapter_config.json of a low-rank adapter: what it asks for, and what is refused.

A setting that is not known here might change what the adapter means, so it may only be off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert import json_file
from convert.json_file import shown
from convert.metadata import describe
from edge.errors import ModelFileError, UnsupportedModelError

MOST_RANKS = 1 << 16
_LIMIT_BYTES = 16 << 20  # patterns may name every module
_HINT = "correct it or fetch the adapter again"
_LARGEST_ALPHA = 1e6
_MUST_BE: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    # Linear layers of every known family keep [outputs, inputs].
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "bias": ("none", "lora_only", "all", None),
    # Others take something out of the weights that they start from.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
_READ = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"}
_READ |= {"modules_to_save", "trainable_token_indices", *_MUST_BE}
_SELECT_AMONG_TARGETS = ("exclude_modules", "layers_to_transform", "layers_pattern")
_SAYS_NOTHING_OF_WEIGHTS = {
    *_SELECT_AMONG_TARGETS,
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
    *("lora_dropout", "peft_version", "eva_config", "megatron_core", "qalora_group_size"),
    "runtime_config",
}
# Names and a few wildcards: a hostile expression could search for hours.
_PATTERN = re.compile(r"[\w.\\^$|()\[\]?*+-]{1,200}", re.ASCII)
_NESTED = re.compile(r"\)[*+?]")
_MOST_WILDCARDS = 3


@dataclass(frozen=True)
class AdapterConfig:
    """Ranks and factors of the updates; `targets` are name endings, None where a rule says it.

    `token_ids` are tokens whose embeddings were trained as well.
    """

    path: Path
    rank: int
    alpha: float
    scales_by_root: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: tuple[str, ...] | None
    replaced: tuple[str, ...]
    token_ids: tuple[int, ...] = ()

    def rank_of(self, module: str) -> int:
        """The rank of a module's update."""
        rank: int = _first_match(self.ranks, module, self.rank)
        return rank

    def scale_of(self, module: str) -> float:
        """What the product of its factors is multiplied with."""
        rank = self.rank_of(module)
        alpha: float = _first_match(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.scales_by_root else rank)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Raises ModelFileError for values that cannot be, UnsupportedModelError for others."""
    values = json_file.read_object(path, _LIMIT_BYTES)
    _refuse_unsupported(values, path)
    get = _Reader(path, values)
    targets = values.get("target_modules")
    is_rule = isinstance(targets, str | None) or any(map(values.get, _SELECT_AMONG_TARGETS))
    return AdapterConfig(
        path=path,
        rank=get.checked("r", _is_rank, f"a whole number from 1 to {MOST_RANKS}"),
        alpha=float(get.checked("lora_alpha", _is_alpha, f"a number up to {_LARGEST_ALPHA:g}")),
        scales_by_root=get.checked("use_rslora", _is_flag, "true or false") or False,
        ranks=get.by_pattern("rank_pattern", _is_rank, "ranks"),
        alphas=get.by_pattern("alpha_pattern", _is_alpha, "numbers"),
        targets=None if is_rule else get.names("target_modules"),
        replaced=get.names("modules_to_save"),
        token_ids=get.token_ids("trainable_token_indices"),
    )


def ends_with(module: str, target: str) -> bool:
    """True when the last parts of the module's name are the target's."""
    return module == target or module.endswith(f".{target}")


@dataclass(frozen=True)
class _Reader:
    path: Path
    values: Mapping[str, Any]

    def checked(self, key: str, is_sound: Callable[[object], bool], wanted: str) -> Any:
        value = self.values.get(key)
        if not is_sound(value):
            missing = f"{self.path.name} has no {key}, {wanted} is wanted"
            reason = missing if value is None else describe(key, value, wanted)
            raise ModelFileError(self.path, None, reason, hint=_HINT)
        return value

    def names(self, key: str) -> tuple[str, ...]:
        def are_names(value: object) -> bool:
            return value is None or (
                isinstance(value, list) and all(isinstance(name, str) and name for name in value)
            )

        return tuple(self.checked(key, are_names, "a list of names") or ())

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A list of ids, or one such list under the name of the embedding."""

        def are_ids(value: object) -> bool:
            return isinstance(value, list) and all(type(id) is int and id >= 0 for id in value)

        def is_told(value: object) -> bool:
            named = list(value.values()) if isinstance(value, dict) else [value]
            return value is None or (len(named) == 1 and are_ids(named[0]))

        told = self.checked(key, is_told, "a list of token ids, or an object with one") or ()
        return tuple(next(iter(told.values())) if isinstance(told, dict) else told)

    def by_pattern(self, key: str, is_sound: Callable[[object], bool], what: str) -> dict[str, Any]:
        def is_table(value: object) -> bool:
            return value is None or (isinstance(value, dict) and all(map(is_sound, value.values())))

        table = self.checked(key, is_table, f"an object of {what}") or {}
        for pattern in table:
            _check_pattern(pattern, key, self.path)
        return dict(table)


def _refuse_unsupported(values: Mapping[str, Any], path: Path) -> None:
    for key, supported in _MUST_BE.items():
        value = values.get(key)
        if not any(
            value is choice or (value == choice and _is_text(value)) for choice in supported
        ):
            if key == "peft_type" and value is None:
                reason = f"{path.name} has no peft_type, {shown('LORA')} is wanted"
                raise ModelFileError(path, None, reason, hint=_HINT)
            allowed = " or ".join(shown(choice) for choice in supported if choice is not None)
            raise _unsupported(path, f"{key} is {shown(value)} ({allowed} is supported)")
    for key in sorted(values.keys() - _READ - _SAYS_NOTHING_OF_WEIGHTS):
        if values[key]:
            reason = f"{shown(key)} is {shown(values[key])}, a setting that cannot be merged"
            raise _unsupported(path, reason)


def _check_pattern(pattern: str, key: str, path: Path) -> None:
    wildcards = len(re.findall(r"[*+]", pattern))
    try:
        simple = _PATTERN.fullmatch(pattern) and not _NESTED.search(pattern)
        if simple and wildcards <= _MOST_WILDCARDS:
            re.compile(pattern)
            return
    except re.error:
        pass
    raise _unsupported(path, f"{key} has {shown(pattern)}, which is no simple pattern of names")


def _first_match(table: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as in PEFT."""
    for pattern, value in table.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _unsupported(path: Path, reason: str) -> UnsupportedModelError:
    hint = "merge it with the program it was trained with, and convert the result"
    return UnsupportedModelError(reason, path=path, hint=hint)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_RANKS


def _is_alpha(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and -_LARGEST_ALPHA <= value <= _LARGEST_ALPHA  # type: ignore[operator]


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | None)

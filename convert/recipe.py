"""How a conversion rounds: presets, recipe files, and what of them the caller changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from convert import json_file
from edge.errors import RequestError
from edge.formats.groups import GROUP_SIZES, OWN_TYPES, TYPES, Choice

Method = Literal["compensated", "nearest"]
METHODS = get_args(Method)
_LARGEST_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """`group_size` 0 is the type's own; `bits` per weight or `size_bytes`, when given, are what
    mixed precision may spend on the whole file; `tensors` maps patterns of names to types.
    """

    type: str = "q8_0"
    method: Method = "nearest"
    group_size: int = 0
    minima: bool = False
    bits: float | None = None
    size_bytes: int | None = None
    tensors: Mapping[str, str] = field(default_factory=dict)
    bf16_activations: tuple[str, ...] = ()
    smooth: bool = False  # channels evened out between neighbours before anything is rounded
    measure_activations: bool = False  # and have bfloat16 wherever int8 would be too coarse
    recalibrate: bool = False  # the commit threshold

    @property
    def groups(self) -> Choice:
        """How int8 and int4 group."""
        return Choice(self.group_size, self.minima)

    @property
    def is_mixed(self) -> bool:
        """Whether tensors get the bits that they are worth."""
        return self.bits is not None or self.size_bytes is not None

    @property
    def is_calibrated(self) -> bool:
        """Whether the model must be run to follow it."""
        return (
            self.method == "compensated"
            or self.smooth
            or self.is_mixed
            or self.measure_activations
            or self.recalibrate
        )

    def to_json(self) -> dict[str, Any]:
        """The recipe as a file holds it."""
        return asdict(self)


PRESETS = {
    "small": Recipe("int4", "compensated", 128, recalibrate=True),
    "balanced": Recipe("int4", "compensated", 32, recalibrate=True),
    "faithful": Recipe(
        "int8", "compensated", smooth=True, measure_activations=True, recalibrate=True
    ),
}
_DEFAULTS = {"int4": "balanced", "int8": "faithful"}


def chosen(preset: str | None, file: Path | None, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of a preset, of a file, or the best one for `changes["type"]`, with the changes.

    Raises RequestError for what does not go together, OSError for the file.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if preset and file:
        raise RequestError("a preset and a recipe file", hint="give --preset or --recipe")
    if preset and preset not in PRESETS:
        raise RequestError(f"no preset {preset!r}", hint=f"known: {', '.join(PRESETS)}")
    if file:
        start = read_recipe(file)
    elif preset:
        start = PRESETS[preset]
    else:
        is_mixed = "bits" in given or "size_bytes" in given
        type = given.get("type", "int4" if is_mixed else "q8_0")
        start = PRESETS[_DEFAULTS[type]] if type in _DEFAULTS else Recipe(type)
    if given.get("type", start.type) != start.type:
        source = f"preset {preset}" if preset else f"the recipe {file}"
        raise RequestError(
            f"type {given['type']}, but {source} makes {start.type}", hint="drop one"
        )
    recipe = replace(start, **given)
    if given.get("method") == "nearest":  # said so as not to run the model
        recipe = replace(recipe, smooth=False, measure_activations=False, recalibrate=False)
    _check(recipe)
    return recipe


def read_recipe(path: Path) -> Recipe:
    """The recipe of a JSON file. Raises RequestError naming the key that is wrong, OSError."""
    content = json_file.read_object(path, _LARGEST_FILE_BYTES)
    known = {each.name for each in fields(Recipe)}
    if unknown := sorted(content.keys() - known):
        raise RequestError(
            f"unknown key {unknown[0]!r}", path=path, hint=f"known: {', '.join(sorted(known))}"
        )
    for key, value in content.items():
        if not _KINDS[key](value):
            raise RequestError(
                f"{key} is {json_file.shown(value)}", path=path, hint=f"give {_WANTED[key]}"
            )
    if "bf16_activations" in content:
        content["bf16_activations"] = tuple(content["bf16_activations"])
    recipe = Recipe(**content)
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    if recipe.type not in TYPES:
        raise RequestError(f"unknown type {recipe.type!r}", hint=f"known types: {', '.join(TYPES)}")
    if recipe.method not in METHODS:
        raise RequestError(f"no method {recipe.method!r}", hint=f"known: {', '.join(METHODS)}")
    if recipe.method == "compensated" and recipe.type not in OWN_TYPES:
        raise RequestError(
            f"method compensated for {recipe.type}", hint=f"only {' and '.join(OWN_TYPES)} have it"
        )
    if recipe.smooth and recipe.type in ("f32", "f16", "bf16"):
        raise RequestError(f"smoothing for {recipe.type}", hint="only what is quantized needs it")
    if recipe.bits is not None and recipe.size_bytes is not None:
        raise RequestError("bits per weight and a size", hint="give one of them")
    if recipe.is_mixed and recipe.type != "int4":
        raise RequestError(f"mixed precision of {recipe.type}", hint="only int4 has it")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(each in TYPES for each in value.values())


_KINDS = {
    "type": _is_text,
    "method": _is_text,
    "group_size": lambda value: value in (0, *GROUP_SIZES) and not isinstance(value, bool),
    "minima": _is_flag,
    "bits": lambda value: value is None or _is_number(value),
    "size_bytes": lambda value: value is None or (_is_number(value) and isinstance(value, int)),
    "tensors": _is_table,
    "bf16_activations": _are_texts,
    "smooth": _is_flag,
    "measure_activations": _is_flag,
    "recalibrate": _is_flag,
}
_WANTED = {
    "type": f"one of {', '.join(TYPES)}",
    "method": f"one of {', '.join(METHODS)}",
    "group_size": f"0 or one of {', '.join(map(str, GROUP_SIZES))}",
    "minima": "true or false",
    "bits": "a number above 0, or null",
    "size_bytes": "a whole number above 0, or null",
    "tensors": f"an object of patterns and types ({', '.join(TYPES)})",
    "bf16_activations": "a list of patterns",
    "smooth": "true or false",
    "measure_activations": "true or false",
    "recalibrate": "true or false",
}

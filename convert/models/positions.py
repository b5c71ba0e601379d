"""What config.json says of positions beyond a base frequency: YaRN, and sharper far queries."""

from __future__ import annotations

import math
from collections.abc import Iterator

from convert.json_file import shown
from convert.metadata import Entry
from convert.models import shape as sizes
from convert.models.base import ConfigReader
from edge.formats import keys
from edge.positions import BETA_FAST, BETA_SLOW, usual_magnitude

_SECTIONS = ("rope_scaling", "rope_parameters")
_MOST = 1e6


def faults(config: ConfigReader, *, partial_rotary: bool) -> Iterator[str]:
    """What the runtime does not do; `partial_rotary` says that the class turns parts of heads."""
    for section in _SECTIONS:
        rope = config.within(section)
        kind = _kind(rope)
        if kind not in (None, "default", "yarn"):
            known = 'null, "default" or "yarn" is supported'
            yield f"{section} is {shown(config.get(section))} ({known})"
        if kind == "yarn" and rope.get("truncate") not in (None, True):
            yield f"truncate of {section} is {shown(rope.get('truncate'))} (true is supported)"
    for rope in () if partial_rotary else (config, config.within("rope_parameters")):
        part = rope.get("partial_rotary_factor")
        if part not in (None, 1):
            yield f"partial_rotary_factor is {shown(part)} (1 is supported)"


def entries(config: ConfigReader, arch: str, longest: int) -> Iterator[Entry]:
    """The keys of what differs from plain rotation; `longest` is the model's context."""
    for section in _SECTIONS:
        rope = config.within(section)
        if _kind(rope) == "yarn":
            original = rope.count("original_max_position_embeddings", sizes.LONGEST, longest)
            yield from _yarn(rope, arch, original, longest)
            yield from _query_scale(rope, arch, original)
            return


def _kind(rope: ConfigReader) -> object:
    return rope.get("type") if rope.get("rope_type") is None else rope.get("rope_type")


def _yarn(rope: ConfigReader, arch: str, original: int, longest: int) -> Iterator[Entry]:
    factor = _number(rope, "factor", max(1.0, longest / original), 1.0)
    numbers = {
        keys.ROPE_FACTOR: factor,
        keys.ROPE_MAGNITUDE: _magnitude(rope, factor) / usual_magnitude(factor),
        keys.YARN_BETA_FAST: _number(rope, "beta_fast", BETA_FAST, 1e-3),
        keys.YARN_BETA_SLOW: _number(rope, "beta_slow", BETA_SLOW, 1e-3),
    }
    yield Entry(keys.ROPE_SCALING.format(arch=arch), "string", "yarn")
    yield Entry(keys.ROPE_ORIGINAL_LENGTH.format(arch=arch), "u32", original)
    for key, value in numbers.items():
        yield Entry(key.format(arch=arch), "f32", value)


def _magnitude(rope: ConfigReader, factor: float) -> float:
    """``attention_factor``, else what transformers makes of ``mscale`` and ``mscale_all_dim``."""
    if rope.get("attention_factor") is not None:
        return rope.number("attention_factor", 1e-3, 1e3)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        one, all_ = (rope.number(key, 1e-3, 1e3) for key in ("mscale", "mscale_all_dim"))
        return (0.1 * one * math.log(factor) + 1) / (0.1 * all_ * math.log(factor) + 1)
    return usual_magnitude(factor)


def _query_scale(rope: ConfigReader, arch: str, original: int) -> Iterator[Entry]:
    if rope.get("llama_4_scaling_beta") is not None:
        beta = rope.number("llama_4_scaling_beta", 1e-6, 1e3)
        yield Entry(keys.QUERY_SCALE.format(arch=arch), "f32", beta)
        yield Entry(keys.QUERY_SCALE_LENGTH.format(arch=arch), "u32", original)


def _number(rope: ConfigReader, key: str, default: float, low: float) -> float:
    return default if rope.get(key) is None else rope.number(key, low, _MOST)

"""Strict JSON: capped size, no duplicate names, no NaN, and every fault one typed error."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from edge.errors import ModelFileError

_HINT = "the file is damaged; fetch the checkpoint again"


def read_text(path: Path, limit_bytes: int) -> str:
    """The file's text as it stands.

    Raises ModelFileError when it is larger than `limit_bytes` or not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        reason = f"{path.name} is larger than {limit_bytes} bytes"
        raise ModelFileError(path, None, reason, hint=_HINT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"{path.name} is not UTF-8 text"
        raise ModelFileError(path, error.start, reason, hint=_HINT) from None


def parse_object(text: str, path: Path) -> dict[str, Any]:
    """Parse one JSON object; `path` is named in errors.

    Raises ModelFileError for malformed, duplicate, non-finite or too deeply nested content.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode("utf-8"))
        raise _malformed(path, offset, error.msg) from None
    except RecursionError:
        raise _malformed(path, None, "nested too deeply") from None
    except ValueError as error:
        raise _malformed(path, None, str(error)) from None
    if not isinstance(value, dict):
        raise _malformed(path, None, f"a {type(value).__name__} where an object is wanted")
    return value


def read_object(path: Path, limit_bytes: int) -> dict[str, Any]:
    """`read_text`, then `parse_object`."""
    return parse_object(read_text(path, limit_bytes), path)


def shown(value: object) -> str:
    """A JSON value for an error message: one line, cut after 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _malformed(path: Path, offset: int | None, reason: str) -> ModelFileError:
    return ModelFileError(path, offset, f"{path.name} is not sound JSON: {reason}", hint=_HINT)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {shown(name)} occurs twice in one object")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:60]} is too large")
    return value

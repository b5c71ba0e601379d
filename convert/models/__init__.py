"""Model families by the architecture string of config.json. A new family is one file, one line."""

from __future__ import annotations

from collections.abc import Callable

from convert.checkpoint import Checkpoint
from convert.json_file import shown
from convert.models import llada
from convert.models.base import Choices, Spec
from edge.errors import UnsupportedModelError

FAMILIES: dict[str, Callable[[Checkpoint, Choices], Spec]] = {
    "LLaDAModelLM": llada.build,
}


def build_spec(checkpoint: Checkpoint, choices: Choices) -> Spec:
    """The validated spec of a checkpoint.

    Raises UnsupportedModelError for an unknown architecture, ModelFileError for a broken one.
    """
    name = checkpoint.architecture
    if name not in FAMILIES:
        raise UnsupportedModelError(
            f"architecture {shown(name)} cannot be converted",
            path=checkpoint.config_path,
            hint=f"known architectures: {', '.join(sorted(FAMILIES))}",
        )
    spec = FAMILIES[name](checkpoint, choices)
    spec.validate(checkpoint)
    return spec

"""Rules that pick what to commit, by name. A new rule is a file and a line in ``SAMPLERS``."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as shown

from edge.errors import RequestError
from edge.samplers.base import Sampler
from edge.samplers.block_refinement import BlockRefinement
from edge.samplers.bounded import EntropyBounded, Factor
from edge.samplers.hierarchical import Hierarchical
from edge.samplers.in_order import Autoregressive, Speculative
from edge.samplers.joint_threshold import JointThreshold
from edge.samplers.low_confidence import (
    LowConfidenceDynamic,
    LowConfidenceStatic,
    Random,
    Sequential,
)
from edge.samplers.schedules import LinearSchedule, Timestep

SAMPLERS: dict[str, type[Sampler]] = {
    "low_confidence_static": LowConfidenceStatic,
    "low_confidence_dynamic": LowConfidenceDynamic,
    "timestep": Timestep,
    "linear_schedule": LinearSchedule,
    "factor": Factor,
    "entropy_bounded": EntropyBounded,
    "block_refinement": BlockRefinement,
    "hierarchical": Hierarchical,
    "joint_threshold": JointThreshold,
    "sequential": Sequential,
    "random": Random,
    "autoregressive": Autoregressive,
    "speculative": Speculative,
}


def names() -> list[str]:
    """The names that ``find`` knows."""
    return list(SAMPLERS)


def decodes_in_order(name: str) -> bool:
    """Whether the rule goes from left to right, which is a loop of its own."""
    return issubclass(find(name), Autoregressive)


def drafts(name: str) -> bool:
    """Whether such a rule drafts tokens."""
    return issubclass(find(name), Speculative)


def presets(name: str) -> Mapping[str, Mapping[str, float]]:
    """Values of the rule's parameters that go together, by name; nothing for most rules."""
    found: Mapping[str, Mapping[str, float]] = getattr(find(name), "presets", {})
    return found


def find(name: str) -> type[Sampler]:
    """Return the rule of that name; raises RequestError that lists the known ones."""
    if name not in SAMPLERS:
        known = ", ".join(names())
        raise RequestError(f"there is no sampler {shown(name)}", hint=f"use one of {known}")
    return SAMPLERS[name]

"""The types a weight can be stored as. Imports nothing: the command line lists them too."""

from __future__ import annotations

# type -> values in a group, bytes of a group
LAYOUTS = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}
TYPES = tuple(LAYOUTS)

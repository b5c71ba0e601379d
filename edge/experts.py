"""What a model file says about the experts of its layers."""

from __future__ import annotations

from edge.formats import keys
from edge.formats.experts import SCORES, Experts
from edge.key_reader import KeyReader

_MOST = 1 << 16


def read_experts(reader: KeyReader, num_layers: int, *, renormalises: bool) -> Experts:
    """Read and check the keys; ``renormalises`` is what a file means that does not say it.

    Raises ModelFileError naming key and value, UnsupportedModelError for another router.
    """
    num_experts = reader.integer(keys.NUM_EXPERTS, high=_MOST)
    num_used = reader.integer(keys.NUM_USED_EXPERTS, high=num_experts)
    size = _size(reader, num_used)
    num_shared = reader.integer(keys.NUM_SHARED_EXPERTS, default=0, low=0, high=_MOST)
    num_groups, num_used_groups = _groups(reader, num_experts, num_used)
    return Experts(
        num_experts=num_experts,
        num_used=num_used,
        size=size,
        shared_size=reader.integer(keys.SHARED_EXPERT_SIZE, default=num_shared * size, low=0),
        num_dense_layers=reader.integer(
            keys.NUM_DENSE_LAYERS, default=0, low=0, high=num_layers - 1
        ),
        scores=_scores(reader),
        renormalises=reader.boolean(keys.EXPERTS_RENORMALISE, default=renormalises),
        bias_counts=reader.boolean(keys.EXPERT_BIAS_COUNTS, default=False),
        scale=reader.positive(keys.EXPERT_SCALE, default=1.0),
        num_groups=num_groups,
        num_used_groups=num_used_groups,
    )


def _size(reader: KeyReader, num_used: int) -> int:
    """Of an expert; llama.cpp shares out the whole width where a file tells no other."""
    size = reader.integer(keys.EXPERT_SIZE, default=0, low=0)
    size = size or reader.integer(keys.FEED_FORWARD_SIZE) // num_used
    if not size:
        raise reader.fail(keys.EXPERT_SIZE, "is missing, and feed_forward_length is too small")
    return size


def _scores(reader: KeyReader) -> str:
    number = reader.integer(keys.EXPERT_SCORES, default=1, low=0)
    if number not in SCORES:
        known = ", ".join(f"{each} ({name})" for each, name in SCORES.items())
        raise reader.unsupported(keys.EXPERT_SCORES, number, known)
    return SCORES[number]


def _groups(reader: KeyReader, num_experts: int, num_used: int) -> tuple[int, int]:
    """How many groups there are, and from how many of them a row may choose."""
    num_groups = reader.integer(keys.NUM_EXPERT_GROUPS, default=0, low=0, high=num_experts) or 1
    used = reader.integer(keys.NUM_USED_EXPERT_GROUPS, default=0, low=0, high=num_groups)
    used = used or num_groups
    if num_experts % num_groups:
        raise reader.fail(
            keys.NUM_EXPERT_GROUPS, f"is {num_groups}, which does not divide {num_experts} experts"
        )
    group = num_experts // num_groups
    if used < num_groups and (group < 2 or num_used > used * group):
        raise reader.fail(
            keys.NUM_USED_EXPERT_GROUPS,
            f"is {used}; groups of {group} must hold two experts, and those groups {num_used}",
        )
    return num_groups, used

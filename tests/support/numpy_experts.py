"""The feed-forward part of a layer with experts, for the numpy twin: row by row.

``Experts`` of edge/formats/experts.py says what the numbers mean. What is added up in float32 is
added in the engine's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy_twin
from numpy_twin import F32, Array, Network


def mixture(net: Network, at: str, rows: Array, math_: Any) -> Array:
    """What normalised rows become."""
    total = np.zeros_like(rows)
    if at + "ffn_gate_shexp.weight" in net.weights:
        total = numpy_twin.gated_product(net, at, rows, math_, "_shexp")
    logits = math_.linear(rows, net.weights[at + "ffn_gate_inp.weight"])
    bias = net.weights.get(at + "exp_probs_b.bias")
    for row in range(len(rows)):
        own = rows[row : row + 1]
        for expert, weight in chosen(net.experts, logits[row], bias):
            part = numpy_twin.gated_product(net, at, own, math_, "_exps", expert)[0]
            total[row] = add_scaled(part, weight, total[row])
    return total


def chosen(experts: Any, logits: Array, bias: Array | None) -> list[tuple[int, Any]]:
    """Expert and weight, the best first."""
    scores = (softmax if experts.scores == "softmax" else sigmoid)(logits)
    ranked = scores if bias is None else (scores + bias).astype(scores.dtype)
    weighed = ranked if experts.bias_counts else scores
    ranked = without_weak_groups(experts, ranked)
    order = [int(i) for i in np.argsort(-ranked, kind="stable")[: experts.num_used]]
    weights = weighed[order]
    if experts.renormalises:
        weights = weights / (total_of(weights) + weights.dtype.type(1e-20))
    return list(zip(order, weights * weights.dtype.type(experts.scale), strict=True))


def without_weak_groups(experts: Any, ranked: Array) -> Array:
    if experts.num_used_groups == experts.num_groups:
        return ranked
    groups = ranked.reshape(experts.num_groups, -1)
    best = np.sort(groups, axis=1)[:, -2:]
    strength = best[:, 1] + best[:, 0]
    kept = np.argsort(-strength, kind="stable")[: experts.num_used_groups]
    left = np.full_like(groups, -np.inf)
    left[kept] = groups[kept]
    return left.reshape(-1)


def softmax(x: Array) -> Array:
    e = exp(x - x.max())
    return e / total_of(e)


def sigmoid(x: Array) -> Array:
    one = x.dtype.type(1.0)
    return one / (one + exp(x.dtype.type(0.0) - x))


def exp(x: Array) -> Array:
    return numpy_twin.exp(x) if x.dtype == F32 else np.exp(x)


def total_of(x: Array) -> Any:
    """One after the other."""
    return np.add.accumulate(x)[-1]


def add_scaled(x: Array, scale: Any, total: Array) -> Array:
    if x.dtype == F32:
        return numpy_twin.fma(x, np.full_like(x, scale), total)
    return total + scale * x

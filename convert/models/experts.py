"""Layers that are mixtures of experts: what config.json says of them, their tensors and keys.

Facts: the modelling files published with Qwen3-MoE (SDAR, RND1), LLaDA-MoE and LLaDA2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from convert.metadata import Entry, Kind
from convert.models.base import ConfigReader, Role
from edge.formats import keys
from edge.formats.experts import SCORES, Experts

MOST_EXPERTS = 1 << 16
WIDEST = 1 << 20
LayerTensor = tuple[str, str, Role, tuple[int, ...]]  # name and target in a layer, role, size


def read_qwen3_moe(config: ConfigReader, num_layers: int) -> Experts:
    """Softmax; ``mlp_only_layers`` may only be the first ones."""
    _allow(config, {"decoder_sparse_step": 1, "shared_expert_intermediate_size": None})
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or dense != list(range(len(dense))) or len(dense) >= num_layers:
        raise config.fault("mlp_only_layers", "the first layers' numbers, or an empty list")
    num_experts, num_used = _counts(config)
    return Experts(
        num_experts,
        num_used,
        size=config.count("moe_intermediate_size", WIDEST),
        num_dense_layers=len(dense),
        renormalises=config.flag("norm_topk_prob", False),
    )


def read_llada_moe(config: ConfigReader, num_layers: int) -> Experts:
    """Never renormalised, and a bias counts: so its class, whatever config.json says."""
    _allow(config, {"routed_scaling_factor": 1, "clip_qkv": None, "qk_layernorm": True})
    _allow(config, {"router_num_group": 1, "router_topk_group": 1})
    scores = config.get("moe_router_score_function")
    if scores not in (None, *SCORES.values()):
        raise config.fault("moe_router_score_function", " or ".join(SCORES.values()))
    num_experts, num_used = _counts(config)
    return Experts(
        num_experts,
        num_used,
        size=config.count("expert_intermediate_size", WIDEST),
        shared_size=_or_none(config, "shared_expert_intermediate_size", WIDEST),
        num_dense_layers=_leading_zeros(config, num_layers),
        scores=scores or "softmax",
        bias_counts=True,
    )


def read_llada2(config: ConfigReader, num_layers: int) -> Experts:
    """Sigmoid, a bias that only chooses, experts in groups; weights are renormalised."""
    _allow(config, {"score_function": "sigmoid", "use_bias": False, "use_qkv_bias": False})
    _allow(config, {"use_qk_norm": True, "norm_head": False})
    num_experts, num_used = _counts(config)
    size = config.count("moe_intermediate_size", WIDEST)
    num_groups = config.count("n_group", num_experts, 1)
    if num_experts % num_groups:
        raise config.fault("n_group", f"a divisor of the {num_experts} experts")
    scale = config.get("routed_scaling_factor")
    num_shared = _or_none(config, "num_shared_experts", WIDEST)
    return Experts(
        num_experts,
        num_used,
        size,
        shared_size=num_shared * size,
        num_dense_layers=_or_none(config, "first_k_dense_replace", num_layers - 1),
        scores="sigmoid",
        renormalises=num_used > 1,
        scale=1.0 if scale is None else config.number("routed_scaling_factor", 1e-30, 1e30),
        num_groups=num_groups,
        num_used_groups=config.count("topk_group", num_groups, num_groups),
    )


def layer_tensors(experts: Experts, hidden: int, *, has_bias: bool) -> Iterator[LayerTensor]:
    """The feed-forward part of a layer with experts."""
    count = experts.num_experts
    yield "mlp.gate.weight", "ffn_gate_inp.weight", "router", (count, hidden)
    if has_bias:
        yield "mlp.gate.expert_bias", "exp_probs_b.bias", "bias", (count,)
    yield from gated_tensors("mlp.experts", "_exps", experts.size, hidden, count)
    if experts.shared_size:
        yield from gated_tensors("mlp.shared_experts", "_shexp", experts.shared_size, hidden)


def gated_tensors(
    module: str, kind: str, size: int, hidden: int, *count: int
) -> Iterator[LayerTensor]:
    """Gate, up and down of one width, or of so many experts."""
    for x in ("gate", "up"):
        target = f"ffn_{x}{kind}.weight"
        yield f"{module}.{x}_proj.weight", target, "linear", (*count, size, hidden)
    yield f"{module}.down_proj.weight", f"ffn_down{kind}.weight", "linear", (*count, hidden, size)


def entries(architecture: str, experts: Experts) -> Iterator[Entry]:
    """The keys of a file."""
    kinds: dict[type, Kind] = {bool: "bool", int: "u32", float: "f32"}
    for key, value in experts.keys().items():
        yield Entry(key.format(arch=architecture), kinds[type(value)], value)


def bias_entries(experts: Experts) -> Iterator[Entry]:
    """The key of a layer whose bias counts, where there is a bias."""
    if experts.bias_counts:
        yield Entry(keys.EXPERT_BIAS_COUNTS, "bool", True)


def _counts(config: ConfigReader) -> tuple[int, int]:
    num_experts = config.count("num_experts", MOST_EXPERTS)
    return num_experts, config.count("num_experts_per_tok", num_experts)


def _or_none(config: ConfigReader, key: str, high: int) -> int:
    """A whole number up to `high`, 0 where it is absent or null."""
    return 0 if config.get(key) in (None, 0) else config.count(key, high)


def _leading_zeros(config: ConfigReader, num_layers: int) -> int:
    """How many of the first layers ``moe_layer_freq`` leaves without experts."""
    told = config.get("moe_layer_freq")
    if told in (None, 1):
        return 0
    numbers = told if isinstance(told, list) else []
    zeros = numbers.index(1) if 1 in numbers else 0
    if numbers != [0] * zeros + [1] * (num_layers - zeros):
        raise config.fault("moe_layer_freq", f"{num_layers} numbers, zeros before ones")
    return zeros


def _allow(config: ConfigReader, wanted: Mapping[str, object]) -> None:
    """Raise UnsupportedModelError for other values, save where a key is absent or null."""
    given = {key: config.get(key) for key in wanted if config.get(key) is not None}
    config.require({key: wanted[key] for key, value in given.items() if value != wanted[key]})

#include "layer.h"

#include <string>

namespace edge {
namespace {

Projection take_projection(TensorSource& source, const DenoiserShape& shape,
                           const std::string& name, int64_t num_outputs) {
    Projection projection{source.take_matrix(name + ".weight", num_outputs, shape.hidden_size), {}};
    if (shape.qkv_bias || source.has(name + ".bias"))
        projection.bias = source.take_floats(name + ".bias", {num_outputs});
    return projection;
}

std::vector<float> take_head_norm(TensorSource& source, const DenoiserShape& shape,
                                  const std::string& name) {
    if (!shape.qk_norm && !source.has(name)) return {};
    return source.take_floats(name, {shape.attention.head_dim});
}

LayerGate take_gate(TensorSource& source, const DenoiserShape& shape, const std::string& prefix) {
    const int64_t hidden = shape.hidden_size;
    const int64_t wide = shape.feed_forward_size;
    const auto take = [&](const char* name, int64_t num_outputs, int64_t depth) {
        return LowRank::take(source, prefix + name, num_outputs, depth, shape.gate_rank);
    };
    return {take("attn_q", shape.query_width(), hidden),
            take("attn_k", shape.kv_width(), hidden),
            take("attn_v", shape.kv_width(), hidden),
            take("attn_output", hidden, shape.query_width()),
            take("ffn_gate", wide, hidden),
            take("ffn_up", wide, hidden),
            take("ffn_down", hidden, wide)};
}

std::optional<ExpertLayer> take_experts(TensorSource& source, const DenoiserShape& shape,
                                        const std::string& prefix, bool has_experts) {
    if (!has_experts) return std::nullopt;
    return ExpertLayer::take(source, shape.experts, shape.hidden_size, prefix);
}

}  // namespace

Layer Layer::take(TensorSource& source, const DenoiserShape& shape, int64_t index) {
    const std::string prefix = "blk." + std::to_string(index) + ".";
    const int64_t hidden = shape.hidden_size;
    const bool has_experts = shape.experts.are_in(index);
    const int64_t wide = has_experts ? shape.experts.shared_size : shape.feed_forward_size;
    const std::string end = has_experts ? "_shexp.weight" : ".weight";
    const auto take_dense = [&](const char* name, int64_t num_outputs, int64_t depth) {
        return wide == 0 ? WeightMatrix()
                         : source.take_matrix(prefix + name + end, num_outputs, depth);
    };
    return {source.take_floats(prefix + "attn_norm.weight", {hidden}),
            take_projection(source, shape, prefix + "attn_q", shape.query_width()),
            take_projection(source, shape, prefix + "attn_k", shape.kv_width()),
            take_projection(source, shape, prefix + "attn_v", shape.kv_width()),
            take_head_norm(source, shape, prefix + "attn_q_norm.weight"),
            take_head_norm(source, shape, prefix + "attn_k_norm.weight"),
            source.take_matrix(prefix + "attn_output.weight", hidden, shape.query_width()),
            source.take_floats(prefix + "ffn_norm.weight", {hidden}),
            take_dense("ffn_gate", wide, hidden),
            take_dense("ffn_up", wide, hidden),
            take_dense("ffn_down", hidden, wide),
            take_experts(source, shape, prefix, has_experts),
            take_gate(source, shape, prefix)};
}

}  // namespace edge

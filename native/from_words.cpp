#include "from_words.h"

#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace edge {
namespace {

constexpr std::pair<KeyFormat, const char*> key_formats[num_key_formats] = {
    {KeyFormat::f32, "f32"}, {KeyFormat::bf16, "bf16"}, {KeyFormat::int8, "int8"}};

constexpr int64_t largest_size = int64_t{1} << 28;
constexpr int64_t most_experts = 1 << 16;

RopePairs make_pairs(const std::string& name) {
    if (name == "halves") return RopePairs::halves;
    if (name == "adjacent") return RopePairs::adjacent;
    throw std::invalid_argument("rope pairs are 'halves' or 'adjacent', not '" + name + "'");
}

}  // namespace

AttentionMask make_mask(const std::string& kind, int64_t block_length, int64_t origin) {
    constexpr int64_t most = int64_t{1} << 28;  // so that no position plus a block can wrap
    using Kind = AttentionMask::Kind;
    const bool in_range = std::abs(origin) <= most && block_length <= most;
    if (kind == "full") return {Kind::full, 0, 0};
    if (kind == "causal") return {Kind::causal, 0, 0};
    if (kind == "causal_context" && in_range) return {Kind::causal_context, 0, origin};
    if (kind == "block" && in_range && block_length > 0) return {Kind::block, block_length, origin};
    throw std::invalid_argument(
        "a mask is 'full', 'causal', 'causal_context' with an origin, or 'block' with a positive "
        "block_length; neither above 2^28");
}

std::vector<Branch> make_branches(const std::vector<std::pair<int64_t, int64_t>>& pairs) {
    std::vector<Branch> branches;
    for (const auto& [num_rows, num_seen] : pairs) branches.push_back({num_rows, num_seen});
    return branches;
}

Activations make_activations(const std::string& name) {
    if (name == "int8") return Activations::int8;
    if (name == "f32") return Activations::f32;
    throw std::invalid_argument("activations are 'int8' or 'f32', not '" + name + "'");
}

std::optional<KeyFormat> make_kv(const std::string& name) {
    if (name == "auto") return std::nullopt;
    for (const auto& [format, word] : key_formats)
        if (name == word) return format;
    throw std::invalid_argument("kv is 'auto', 'f32', 'bf16' or 'int8', not '" + name + "'");
}

std::string to_word(KeyFormat format) { return key_formats[static_cast<size_t>(format)].second; }

ExpertShape make_experts(int64_t num_experts, int64_t num_used, int64_t size, int64_t shared_size,
                         int64_t num_dense_layers, const std::string& scores, bool renormalises,
                         bool bias_counts, float scale, int64_t num_groups,
                         int64_t num_used_groups) {
    if (num_experts < 1 || num_experts > most_experts || num_used < 1 || num_used > num_experts)
        throw std::invalid_argument("num_used and num_experts must be from 1 to 65536, ascending");
    if (size < 1 || size > largest_size || shared_size < 0 || shared_size > largest_size ||
        num_dense_layers < 0)
        throw std::invalid_argument("the size of an expert is not between 1 and 2^28");
    if (num_groups < 1 || num_experts % num_groups != 0 || num_used_groups < 1 ||
        num_used_groups > num_groups)
        throw std::invalid_argument("num_groups must divide num_experts, num_used_groups be some");
    const int64_t group = num_experts / num_groups;
    if (num_used_groups < num_groups && (group < 2 || num_used > num_used_groups * group))
        throw std::invalid_argument("num_used experts are not in num_used_groups groups of two");
    if (scores != "softmax" && scores != "sigmoid")
        throw std::invalid_argument("scores are 'softmax' or 'sigmoid', not '" + scores + "'");
    if (!(scale > 0.0f) || !std::isfinite(scale))
        throw std::invalid_argument("scale must be positive");
    const auto kind = scores == "softmax" ? ExpertScores::softmax : ExpertScores::sigmoid;
    return {num_experts,  num_used,    size,  shared_size, num_dense_layers, kind,
            renormalises, bias_counts, scale, num_groups,  num_used_groups};
}

DenoiserShape make_shape(int64_t hidden_size, int64_t num_layers, int64_t num_heads,
                         int64_t num_kv_heads, int64_t head_dim, int64_t feed_forward_size,
                         int64_t vocab_size, int64_t context_length, float rms_norm_eps,
                         double rope_theta, const std::string& rope_pairs, bool qkv_bias,
                         bool qk_norm, int64_t gate_rank, std::vector<double> rope_frequencies,
                         double rope_magnitude, double query_scale, int64_t query_scale_length,
                         int64_t rotary_dims, const std::optional<ExpertShape>& experts) {
    for (const int64_t size : {hidden_size, num_layers, num_heads, num_kv_heads, head_dim,
                               feed_forward_size, vocab_size, context_length})
        if (size < 1 || size > largest_size)
            throw std::invalid_argument("a size is not between 1 and 2^28");
    if (gate_rank < 0 || gate_rank > int64_t{1} << 28)
        throw std::invalid_argument("gate_rank is not between 0 and 2^28");
    if (num_heads % num_kv_heads != 0)
        throw std::invalid_argument("num_kv_heads must divide num_heads");
    if (rotary_dims == 0) rotary_dims = head_dim;
    if (head_dim % 2 != 0 || rotary_dims % 2 != 0 || rotary_dims < 2 || rotary_dims > head_dim)
        throw std::invalid_argument("head_dim and rotary_dims must be even, the latter not larger");
    if (!(rms_norm_eps > 0.0f) || !(rope_theta > 0.0) || !std::isfinite(rope_theta))
        throw std::invalid_argument("rms_norm_eps and rope_theta must be positive");
    const auto pairs = static_cast<int64_t>(rope_frequencies.size());
    if (pairs != 0 && pairs != rotary_dims / 2)
        throw std::invalid_argument("rope_frequencies are not one for each pair of a head");
    if (!(rope_magnitude > 0.0) || !(query_scale >= 0.0) || query_scale_length < 1)
        throw std::invalid_argument("rope_magnitude, query_scale or its length cannot be");
    return {hidden_size,
            num_layers,
            {num_heads, num_kv_heads, head_dim},
            feed_forward_size,
            vocab_size,
            context_length,
            rms_norm_eps,
            rope_theta,
            make_pairs(rope_pairs),
            rotary_dims,
            qkv_bias,
            qk_norm,
            gate_rank,
            std::move(rope_frequencies),
            rope_magnitude,
            {query_scale, query_scale_length},
            experts.value_or(ExpertShape{})};
}

}  // namespace edge

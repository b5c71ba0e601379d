// What callers say in words and plain numbers, checked: kernels divide and allocate by these, so
// the border checks them whatever the caller did. All throw std::invalid_argument.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "linear.h"
#include "shape.h"
#include "step.h"

namespace edge {

AttentionMask make_mask(const std::string& kind, int64_t block_length, int64_t origin);
std::vector<Branch> make_branches(const std::vector<std::pair<int64_t, int64_t>>& pairs);
Activations make_activations(const std::string& name);
std::optional<KeyFormat> make_kv(const std::string& name);
std::string to_word(KeyFormat format);
ExpertShape make_experts(int64_t num_experts, int64_t num_used, int64_t size, int64_t shared_size,
                         int64_t num_dense_layers, const std::string& scores, bool renormalises,
                         bool bias_counts, float scale, int64_t num_groups,
                         int64_t num_used_groups);
DenoiserShape make_shape(int64_t hidden_size, int64_t num_layers, int64_t num_heads,
                         int64_t num_kv_heads, int64_t head_dim, int64_t feed_forward_size,
                         int64_t vocab_size, int64_t context_length, float rms_norm_eps,
                         double rope_theta, const std::string& rope_pairs, bool qkv_bias,
                         bool qk_norm, int64_t gate_rank, std::vector<double> rope_frequencies,
                         double rope_magnitude, double query_scale, int64_t query_scale_length,
                         int64_t rotary_dims, const std::optional<ExpertShape>& experts);

}  // namespace edge

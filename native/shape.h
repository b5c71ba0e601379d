// What kind of denoiser a file holds: a row of settings, not a class per family.
#pragma once

#include <cstdint>
#include <vector>

#include "attention.h"
#include "router.h"
#include "rope.h"

namespace edge {

struct DenoiserShape {
    int64_t hidden_size;
    int64_t num_layers;
    AttentionShape attention;
    int64_t feed_forward_size;
    int64_t vocab_size;  // rows of the embedding
    int64_t context_length;
    float rms_norm_eps;
    double rope_theta;
    RopePairs rope_pairs;
    int64_t rotary_dims;    // of a head, the first ones; the others are not rotated
    bool qkv_bias = false;  // the file must hold these; where false it may
    bool qk_norm = false;   // RMSNorm per head before the rotation; likewise
    int64_t gate_rank = 0;  // most ranks of what is added for gated rows; 0: no rows are gated
    std::vector<double> rope_frequencies = {};  // per pair; none: those of rope_theta
    double rope_magnitude = 1.0;                // of what is rotated
    QueryScale query_scale = {};
    ExpertShape experts = {};  // of the layers that have some

    int64_t query_width() const { return attention.num_heads * attention.head_dim; }
    int64_t kv_width() const { return attention.num_kv_heads * attention.head_dim; }
};

}  // namespace edge

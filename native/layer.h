// The weights of one layer.
#pragma once

#include <vector>

#include "shape.h"
#include "tensors.h"
#include "weights.h"

namespace edge {

// A projection with an optional bias [num_outputs].
struct Projection {
    WeightMatrix weights;
    std::vector<float> bias;
};

struct Layer {
    std::vector<float> attention_norm;  // [hidden_size]
    Projection query, key, value;
    std::vector<float> query_norm, key_norm;  // [head_dim] or empty
    WeightMatrix attention_output;
    std::vector<float> feed_forward_norm;  // [hidden_size]
    WeightMatrix gate, up, down;

    // Throws like TensorSource::take.
    static Layer take(TensorSource& source, const DenoiserShape& shape, int64_t index);

    bool quantized_input() const {
        return query.weights.is_quantized() || key.weights.is_quantized() ||
               value.weights.is_quantized();
    }
    bool quantized_gate() const { return gate.is_quantized() || up.is_quantized(); }
};

}  // namespace edge

// The weights of one layer.
#pragma once

#include <optional>
#include <vector>

#include "experts.h"
#include "gate.h"
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
    WeightMatrix gate, up, down;           // of all rows; with experts there may be none
    std::optional<ExpertLayer> experts;    // of those that a row takes
    LayerGate raises;                      // of gated rows

    // Throws like TensorSource::take.
    static Layer take(TensorSource& source, const DenoiserShape& shape, int64_t index);

    SumKinds input_sums() const {
        return query.weights.sums() | key.weights.sums() | value.weights.sums();
    }
    SumKinds gate_sums() const {
        return gate.sums() | up.sums() | (experts ? experts->router.sums() : 0);
    }
};

}  // namespace edge

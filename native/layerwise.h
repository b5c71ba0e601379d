// A forward taken apart, layer by layer, for those who look inside: the converter's calibration.
#pragma once

#include <cstdint>
#include <vector>

namespace edge {

// What enters the matrix products of one layer, before it is rounded to anything.
struct LayerInputs {
    std::vector<float> attention;         // [rows, hidden_size]: query, key, value
    std::vector<float> attention_output;  // [rows, query_width]
    std::vector<float> feed_forward;      // [rows, hidden_size]: gate, up, those of experts too
    std::vector<float> down;              // [rows, width] of what all rows go through, or empty
    // Pairs of a row and an expert that it takes, by expert; of layers without experts empty.
    std::vector<int32_t> pair_experts, pair_rows;  // [pairs]
    std::vector<float> pair_down;                  // [pairs, width of an expert]: the experts' down
};

}  // namespace edge

// A forward taken apart, layer by layer, for those who look inside: the converter's calibration.
#pragma once

#include <cstdint>
#include <vector>

namespace edge {

// What enters the matrix products of one layer, before it is rounded to anything.
struct LayerInputs {
    std::vector<float> attention;         // [rows, hidden_size]: query, key, value
    std::vector<float> attention_output;  // [rows, query_width]
    std::vector<float> feed_forward;      // [rows, hidden_size]: gate, up
    std::vector<float> down;              // [rows, feed_forward_size]
};

}  // namespace edge

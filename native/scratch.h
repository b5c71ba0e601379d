// What a denoiser's forward works on.
#pragma once

#include <cstdint>
#include <vector>

#include "attention.h"
#include "denoiser.h"
#include "experts.h"
#include "gate.h"
#include "head.h"
#include "key_blocks.h"
#include "layerwise.h"
#include "linear.h"
#include "step_clock.h"

namespace edge {

// Reused between steps, so that a step allocates only when it is larger than those before.
struct Denoiser::Scratch {
    explicit Scratch(const DenoiserShape& shape)
        : key_blocks(shape.attention), attention(shape.attention), mixture(shape.experts) {}

    StepClock clock;
    std::vector<float> hidden;        // [active, hidden_size]
    std::vector<float> queries;       // [active, query_width]
    std::vector<float> attended;      // [active, query_width]
    std::vector<float> projected;     // [active, hidden_size]
    std::vector<float> gate, up;      // [active, feed_forward_size]
    std::vector<float> keys, values;  // [1 or num_layers, active, kv_width]
    int64_t shadow_stride = 0;        // floats per layer of keys; 0 when layers share
    bool stores_at_once = false;      // into slots that nobody sees before the step has completed
    std::vector<int32_t> all_rows;    // 0..active-1
    KeyBlocks key_blocks;             // of the trunk
    std::vector<KeyBlocks> branches;  // of each branch, and of others in earlier steps
    LinearInput input;
    std::vector<float> unguided;  // [head rows, hidden_size] of the guidance's canvas
    Attention attention;
    Mixture mixture;
    Head head;
    Gate gate_rows;
    LayerInputs* seen = nullptr;  // gets copies of a layer's inputs
};

}  // namespace edge

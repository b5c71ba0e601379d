// What one denoising step is asked and what it answers.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "attention.h"
#include "experts.h"
#include "head.h"
#include "kv_cache.h"
#include "sampling.h"
#include "shape.h"
#include "step_clock.h"

namespace edge {

using CancelFlag = std::atomic<bool>;

// Classifier-free guidance: logits become u + (scale + 1) * (c - u), where u belongs to the same
// canvas with other ids (the prompt masked). The head is linear, so the two hidden states are
// combined and the head is evaluated once.
struct Guidance {
    std::vector<int32_t> ids;  // [active], empty: no guidance
    float scale = 0.0f;
};

// Rows behind the others, each going on in its own way: they see what is cached, the first
// `num_seen` of the rows before the first branch, and each other.
struct Branch {
    int64_t num_rows;
    int64_t num_seen;
};

// One step: which tokens are computed, what they see, what is asked of them.
struct StepInput {
    std::vector<int32_t> ids;         // [active] token ids
    std::vector<int32_t> positions;   // [active] ascending, of each branch anew
    std::vector<int32_t> head_rows;   // indices into the active tokens, not descending
    std::vector<int32_t> gated_rows;  // ascending; they get the updates and see everything
    std::vector<Branch> branches;     // the last rows, in this order
    KvCache* cache = nullptr;         // valid slots that are not active are attended too
    bool store = false;               // publish the active rows' keys and values when done
    int64_t num_stored = 0;           // only those of the first so many rows; 0: of all
    AttentionMask mask;
    HeadOptions head;
    Guidance guidance;
    const CancelFlag* cancel = nullptr;
    int64_t deadline_ns = 0;  // on the steady clock; 0: none

    // How many rows are before the first branch.
    int64_t num_trunk_rows() const;
    int32_t last_position() const;
    int64_t num_kept() const;  // rows that are stored if any are
};

struct StepOutput {
    bool cancelled = false;
    int64_t layers_done = 0;
    StepTimes times;
    ExpertCounts experts;
    std::vector<HeadRow> rows;  // [head_rows]
};

// Throws std::invalid_argument for a step that this denoiser cannot do.
void check_step(const StepInput& input, const DenoiserShape& shape);

}  // namespace edge

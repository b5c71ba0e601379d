// A mixture of experts: each row goes through a few of many feed-forward parts. Rows are put in the
// order of their experts, so that each expert's weights are read once for all its rows, and not at
// all where it has none. What a row becomes does not depend on the others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layerwise.h"
#include "linear.h"
#include "router.h"
#include "step_clock.h"
#include "tensors.h"
#include "weights.h"

namespace edge {

struct ExpertLayer {
    WeightMatrix router;                       // [num_experts, hidden_size]
    std::vector<float> bias;                   // [num_experts] or empty
    std::vector<WeightMatrix> gate, up, down;  // one for each expert

    // Throws like TensorSource::take.
    static ExpertLayer take(TensorSource& source, const ExpertShape& shape, int64_t hidden_size,
                            const std::string& prefix);
};

// Summed over layers.
struct ExpertCounts {
    int64_t pairs = 0;    // of a row and an expert that it takes
    int64_t touched = 0;  // experts that have rows
};

// Experts at work on the rows of a layer; its memory is reused between layers and steps.
class Mixture {
public:
    explicit Mixture(const ExpertShape& shape) : shape_(shape) {}

    // Run the experts of the input's rows. Returns false when a number is not finite.
    bool run(const Machine& machine, const ExpertLayer& layer, const LinearInput& input,
             StepClock& clock);

    // Add what the experts made of the rows to `rows` [rows, hidden_size].
    void add_to(const Machine& machine, int64_t hidden_size, float* rows) const;

    // Copy what the last run's experts had.
    void show(LayerInputs& seen) const;
    // Add what the last run was.
    void count(ExpertCounts& counts) const {
        counts.pairs += num_pairs();
        counts.touched += static_cast<int64_t>(touched_.size());
    }

private:
    int64_t num_pairs() const { return static_cast<int64_t>(rows_.size()); }
    bool route(const Machine& machine, const ExpertLayer& layer, const LinearInput& input,
               StepClock& clock);
    void group(int64_t num_rows);

    ExpertShape shape_;
    std::vector<float> logits_;     // [rows, num_experts]
    std::vector<int32_t> experts_;  // [rows, num_used]
    std::vector<float> weights_;    // [rows, num_used]
    // Pairs of a row and an expert, ordered by expert, then by row:
    std::vector<int32_t> touched_;  // experts that have rows
    std::vector<int> starts_;       // [touched + 1], their first pairs
    std::vector<int32_t> rows_;     // [pairs]
    std::vector<int32_t> pairs_;    // [rows, num_used], where a row's choice is among them
    LinearInput inputs_, activated_;
    std::vector<float> gate_, up_;  // [pairs, size]
    std::vector<float> outputs_;    // [pairs, hidden_size]
};

}  // namespace edge

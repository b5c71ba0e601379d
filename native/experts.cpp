#include "experts.h"

#include <algorithm>
#include <atomic>

namespace edge {
namespace {

// A layer's matrices, one for each expert, and where their products go: [pairs, num_outputs].
struct Products {
    const std::vector<WeightMatrix>* weights;
    float* out;
};

// All products of the touched experts in one parallel region.
void multiply_all(const Machine& machine, const LinearInput& inputs,
                  const std::vector<int32_t>& touched, std::initializer_list<Products> products) {
    ThreadPool::Work work{0, 0};
    for (const Products& each : products) {
        for (size_t i = 0; i < touched.size(); ++i)
            work.operations += operations(InputRows(inputs, static_cast<int>(i)),
                                          (*each.weights)[static_cast<size_t>(touched[i])]);
        work.num_chunks += each.weights->front().num_panels();
    }
    const int64_t per_expert = work.num_chunks;
    work.num_chunks *= static_cast<int64_t>(touched.size());
    machine.pool.run(work, [&](int64_t chunk, int) {
        const InputRows rows(inputs, static_cast<int>(chunk / per_expert));
        const int32_t expert = touched[static_cast<size_t>(chunk / per_expert)];
        int64_t panel = chunk % per_expert;
        for (const Products& each : products) {
            const WeightMatrix& weights = (*each.weights)[static_cast<size_t>(expert)];
            if (panel < weights.num_panels()) {
                const int64_t stride = weights.num_outputs();
                float* out = each.out + rows.first_row() * stride + panel * panel_cols;
                return multiply_panels(machine, rows, weights, panel, panel + 1, out, stride);
            }
            panel -= weights.num_panels();
        }
    });
}

}  // namespace

ExpertLayer ExpertLayer::take(TensorSource& source, const ExpertShape& shape, int64_t hidden_size,
                              const std::string& prefix) {
    const int64_t count = shape.num_experts;
    const std::string bias = prefix + "exp_probs_b.bias";
    return {source.take_matrix(prefix + "ffn_gate_inp.weight", count, hidden_size),
            source.has(bias) ? source.take_floats(bias, {count}) : std::vector<float>(),
            source.take_matrices(prefix + "ffn_gate_exps.weight", count, shape.size, hidden_size),
            source.take_matrices(prefix + "ffn_up_exps.weight", count, shape.size, hidden_size),
            source.take_matrices(prefix + "ffn_down_exps.weight", count, hidden_size, shape.size)};
}

bool Mixture::run(const Machine& machine, const ExpertLayer& layer, const LinearInput& input,
                  StepClock& clock) {
    const int64_t size = shape_.size;
    const bool routed = route(machine, layer, input, clock);
    clock.charge(&StepTimes::other_ns);
    if (!routed) return false;
    const auto charge_input = [&](const LinearInput& filled) {
        clock.charge(filled.is_quantized() ? &StepTimes::quantize_ns : &StepTimes::other_ns);
    };
    const auto copy = [&](int pair, float* out) {
        std::copy_n(input.row(rows_[static_cast<size_t>(pair)]), input.depth(), out);
    };
    const SumKinds gate_sums = layer.gate.front().sums() | layer.up.front().sums();
    inputs_.fill_groups(machine, starts_, input.depth(), gate_sums, copy);
    charge_input(inputs_);
    gate_.resize(static_cast<size_t>(num_pairs() * size));
    up_.resize(gate_.size());
    multiply_all(machine, inputs_, touched_,
                 {{&layer.gate, gate_.data()}, {&layer.up, up_.data()}});
    clock.charge(&StepTimes::gemm_ns);
    const auto activate = [&](int pair, float* out) {
        machine.kernels.silu_multiply(gate_.data() + pair * size, up_.data() + pair * size, size,
                                      out);
    };
    const bool finite =
        activated_.fill_groups(machine, starts_, size, layer.down.front().sums(), activate);
    charge_input(activated_);
    if (!finite) return false;
    outputs_.resize(static_cast<size_t>(num_pairs() * input.depth()));
    multiply_all(machine, activated_, touched_, {{&layer.down, outputs_.data()}});
    clock.charge(&StepTimes::gemm_ns);
    return true;
}

bool Mixture::route(const Machine& machine, const ExpertLayer& layer, const LinearInput& input,
                    StepClock& clock) {
    const int64_t count = shape_.num_experts;
    const int64_t rows = input.rows();
    logits_.resize(static_cast<size_t>(rows * count));
    experts_.resize(static_cast<size_t>(rows * shape_.num_used));
    weights_.resize(experts_.size());
    multiply(machine, input, {{&layer.router, logits_.data(), count}});
    clock.charge(&StepTimes::gemm_ns);
    std::atomic<bool> finite{true};
    machine.pool.run({rows, rows * count * shape_.num_used * added_element}, [&](int64_t row, int) {
        const int64_t first = row * shape_.num_used;
        if (!choose_experts(machine.kernels, shape_, layer.bias, logits_.data() + row * count,
                            experts_.data() + first, weights_.data() + first))
            finite = false;
    });
    if (finite) group(rows);
    return finite;
}

void Mixture::group(int64_t num_rows) {
    std::vector<int> counts(static_cast<size_t>(shape_.num_experts));
    for (const int32_t expert : experts_) ++counts[static_cast<size_t>(expert)];
    touched_.clear();
    starts_ = {0};
    std::vector<int> next(counts.size());
    for (size_t expert = 0; expert < counts.size(); ++expert) {
        next[expert] = starts_.back();
        if (counts[expert] == 0) continue;
        touched_.push_back(static_cast<int32_t>(expert));
        starts_.push_back(starts_.back() + counts[expert]);
    }
    rows_.resize(experts_.size());
    pairs_.resize(experts_.size());
    for (int64_t row = 0; row < num_rows; ++row)
        for (int64_t i = row * shape_.num_used; i < (row + 1) * shape_.num_used; ++i) {
            const int pair = next[static_cast<size_t>(experts_[static_cast<size_t>(i)])]++;
            rows_[static_cast<size_t>(pair)] = static_cast<int32_t>(row);
            pairs_[static_cast<size_t>(i)] = pair;
        }
}

void Mixture::show(LayerInputs& seen) const {
    for (size_t i = 0; i < touched_.size(); ++i)
        seen.pair_experts.resize(static_cast<size_t>(starts_[i + 1]), touched_[i]);
    seen.pair_rows = rows_;
    seen.pair_down = activated_.values();
}

void Mixture::add_to(const Machine& machine, int64_t hidden_size, float* rows) const {
    const int64_t used = shape_.num_used;
    const int64_t count = num_pairs() / used;
    machine.pool.run({count, num_pairs() * hidden_size * added_element}, [&](int64_t row, int) {
        for (int64_t i = row * used; i < (row + 1) * used; ++i) {
            const int64_t pair = pairs_[static_cast<size_t>(i)];
            machine.kernels.add_scaled(outputs_.data() + pair * hidden_size,
                                       weights_[static_cast<size_t>(i)], hidden_size,
                                       rows + row * hidden_size);
        }
    });
}

}  // namespace edge

#include "layerwise.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "denoiser.h"
#include "errors.h"
#include "scratch.h"
#include "tensors.h"

namespace edge {
namespace {

StepInput whole_canvas(const std::vector<int32_t>& ids, const AttentionMask& mask) {
    StepInput input;
    input.ids = ids;
    input.positions.resize(ids.size());
    std::iota(input.positions.begin(), input.positions.end(), 0);
    input.mask = mask;
    return input;
}

}  // namespace

std::vector<float> Denoiser::embedded(const std::vector<int32_t>& ids) {
    const StepInput input = whole_canvas(ids, {});
    check_step(input, shape_);
    const std::lock_guard lock(mutex_);
    embed(input, input.ids);
    return scratch_->hidden;
}

void Denoiser::run_layer(int64_t index, const AttentionMask& mask, std::vector<float>& hidden,
                         LayerInputs* seen) {
    if (index < 0 || index >= shape_.num_layers) throw std::invalid_argument("no such layer");
    const auto rows = static_cast<size_t>(static_cast<int64_t>(hidden.size()) / shape_.hidden_size);
    const StepInput input = whole_canvas(std::vector<int32_t>(rows), mask);
    check_step(input, shape_);
    require_panels();
    const std::lock_guard lock(mutex_);
    rope_.extend(static_cast<int64_t>(rows));
    plan_keys(input);
    scratch_->hidden.swap(hidden);
    scratch_->seen = seen;
    const Layer& layer = layers_[static_cast<size_t>(index)];
    const Machine machine = this->machine();
    run_attention(machine, layer, index, input);
    run_feed_forward(machine, layer, index, input);
    scratch_->seen = nullptr;
    scratch_->hidden.swap(hidden);
}

std::vector<float> Denoiser::head_inputs(const std::vector<float>& hidden) {
    const std::lock_guard lock(mutex_);
    take_hidden(hidden);
    normalise(machine(), output_norm_, scratch_->all_rows, 0, "the final norm");
    return scratch_->input.values();
}

void Denoiser::head_logits(const std::vector<float>& hidden, float* out) {
    require_panels();
    const std::lock_guard lock(mutex_);
    take_hidden(hidden);
    const Machine machine = this->machine();
    normalise(machine, output_norm_, scratch_->all_rows, head_weights_->sums(), "the final norm");
    multiply(machine, scratch_->input, {{&*head_weights_, out, shape_.vocab_size}});
}

void Denoiser::take_hidden(const std::vector<float>& hidden) {
    const int64_t rows = static_cast<int64_t>(hidden.size()) / shape_.hidden_size;
    if (rows < 1 || rows * shape_.hidden_size != static_cast<int64_t>(hidden.size()))
        throw std::invalid_argument("hidden states must be [rows, hidden_size]");
    scratch_->hidden = hidden;
    scratch_->all_rows.resize(static_cast<size_t>(rows));
    std::iota(scratch_->all_rows.begin(), scratch_->all_rows.end(), 0);
}

void Denoiser::replace(const std::string& name, std::shared_ptr<const ModelFile> file) {
    WeightMatrix* matrix = find_matrix(name);
    std::vector<WeightMatrix>* experts = find_experts(name);
    if (experts != nullptr) matrix = &experts->front();
    if (matrix == nullptr) throw std::invalid_argument("no matrix is called '" + name + "'");
    const std::lock_guard lock(mutex_);
    TensorSource source(*file);
    const int64_t rows = matrix->num_outputs();
    WeightMatrix other;
    std::vector<WeightMatrix> others;
    if (experts == nullptr)
        other = source.take_matrix(name, rows, matrix->depth());
    else
        others = source.take_matrices(name, shape_.experts.num_experts, rows, matrix->depth());
    const Machine machine = this->machine();
    for (const auto& panels : source.panels()) {
        AlignedBytes packed = allocate_aligned(panels->num_bytes());
        panels->pack(packed.get(), machine.pool);
        panels->keep(std::move(packed));
    }
    if (experts == nullptr)
        *matrix = std::move(other);
    else
        *experts = std::move(others);
    replaced_[name] = std::move(file);
}

// Matrices of a layer's experts, nullptr when there are none of that name.
std::vector<WeightMatrix>* Denoiser::find_experts(const std::string& name) {
    for (size_t i = 0; i < layers_.size(); ++i) {
        if (!layers_[i].experts) continue;
        ExpertLayer& experts = *layers_[i].experts;
        const std::string prefix = "blk." + std::to_string(i) + ".ffn_";
        if (prefix + "gate_exps.weight" == name) return &experts.gate;
        if (prefix + "up_exps.weight" == name) return &experts.up;
        if (prefix + "down_exps.weight" == name) return &experts.down;
    }
    return nullptr;
}

// nullptr when there is none.
WeightMatrix* Denoiser::find_matrix(const std::string& name) {
    if (name == "output.weight" || name == "token_embd.weight") return &*head_weights_;
    for (size_t i = 0; i < layers_.size(); ++i) {
        Layer& layer = layers_[i];
        const std::string prefix = "blk." + std::to_string(i) + ".";
        const std::pair<const char*, WeightMatrix*> matrices[] = {
            {"attn_q.weight", &layer.query.weights},
            {"attn_k.weight", &layer.key.weights},
            {"attn_v.weight", &layer.value.weights},
            {"attn_output.weight", &layer.attention_output},
            {layer.experts ? "ffn_gate_shexp.weight" : "ffn_gate.weight", &layer.gate},
            {layer.experts ? "ffn_up_shexp.weight" : "ffn_up.weight", &layer.up},
            {layer.experts ? "ffn_down_shexp.weight" : "ffn_down.weight", &layer.down}};
        for (const auto& [own, matrix] : matrices)
            if (prefix + own == name && matrix->num_outputs() > 0) return matrix;
    }
    return nullptr;
}

}  // namespace edge

#include "denoiser.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "errors.h"
#include "dispatch.h"
#include "quantize.h"
#include "scratch.h"
#include "tensors.h"

namespace edge {
namespace {

bool should_stop(const StepInput& input) {
    return (input.cancel != nullptr && *input.cancel) ||
           (input.deadline_ns != 0 && now_ns() >= input.deadline_ns);
}

// Each token's row brings its neighbours' pages along, so that a long prompt would map most of a
// large vocabulary.
constexpr size_t many_rows = 64;

std::string layer_name(int64_t index) { return "layer " + std::to_string(index); }

}  // namespace

Denoiser::Denoiser(std::shared_ptr<const ModelFile> file, const DenoiserShape& shape,
                   const EngineOptions& options)
    : file_(std::move(file)),
      shape_(shape),
      kernels_(select_kernels(options.isa)),
      activations_(options.activations),
      num_threads_(options.num_threads),
      pool_owner_(::getpid()),
      pool_(std::make_unique<ThreadPool>(options.num_threads)),
      rope_(shape.rope_pairs,
            shape.rope_frequencies.empty() ? plain_frequencies(shape.rotary_dims, shape.rope_theta)
                                           : shape.rope_frequencies,
            shape.rope_magnitude) {
    TensorSource source(*file_);
    embedding_ = &source.take("token_embd.weight", {shape.vocab_size, shape.hidden_size});
    if (source.has("position_embd.weight"))
        position_table_ =
            source.take_floats("position_embd.weight", {shape.context_length, shape.hidden_size});
    if (shape.gate_rank > 0 && source.has("mask_embd.weight"))
        mask_embedding_ = source.take_floats("mask_embd.weight", {shape.hidden_size});
    for (int64_t i = 0; i < shape.num_layers; ++i) layers_.push_back(Layer::take(source, shape, i));
    output_norm_ = source.take_floats("output_norm.weight", {shape.hidden_size});
    const char* head_name =
        source.has("output.weight") ? "output.weight" : "token_embd.weight";  // tied
    head_weights_.emplace(source.take_matrix(head_name, shape.vocab_size, shape.hidden_size));
    source.refuse_leftovers();
    panels_ = source.panels();
    const bool is_quantized = activations_ == Activations::int8 && !panels_.empty();
    shape_.attention.format = options.kv.value_or(is_quantized ? KeyFormat::bf16 : KeyFormat::f32);
    scratch_ = std::make_unique<Scratch>(shape_);
    if (options.pack) pack_panels();
}

int64_t Denoiser::panel_bytes() const {
    int64_t total = 0;
    for (const auto& panels : panels_) total += panels->num_bytes();
    return total;
}

void Denoiser::pack_panels() {
    for (const auto& panels : panels_) {
        AlignedBytes packed = allocate_aligned(panels->num_bytes());
        panels->pack(packed.get(), *pool_);
        panels->keep(std::move(packed));
    }
}

void Denoiser::write_panels(const std::string& path, const PanelSource& source) {
    write_panel_file(path, source, panels_, *pool_);
}

void Denoiser::map_panels(const std::string& path, const PanelSource& source) {
    auto mapped = std::make_unique<PanelFile>(path, source, panels_, *pool_);
    mapped->place(panels_);
    panel_file_ = std::move(mapped);
}

void Denoiser::require_panels() const {
    for (const auto& panels : panels_)
        if (!panels->are_placed()) throw std::logic_error("the weights are not packed yet");
}

Denoiser::~Denoiser() {
    if (pool_owner_ != ::getpid()) (void)pool_.release();  // its threads are the parent's
}

Machine Denoiser::machine() {
    if (pool_owner_ != ::getpid()) {
        (void)pool_.release();  // joining the parent's threads would wait for ever
        pool_ = std::make_unique<ThreadPool>(num_threads_);
        pool_owner_ = ::getpid();
    }
    return {*pool_, kernels_, activations_};
}

StepOutput Denoiser::step(const StepInput& input) {
    check_step(input, shape_);
    require_panels();
    const std::lock_guard lock(mutex_);
    StepOutput output;
    scratch_->clock.restart();
    try {
        output.cancelled = !run_guided(input, output) || !run_head(input, output);
    } catch (const NumericFault&) {
        if (scratch_->stores_at_once) input.cache->clear(input.positions);
        throw;
    }
    if (!output.cancelled && input.store) publish(input);
    pool_->end_step();
    scratch_->clock.charge(&StepTimes::other_ns);
    output.times = scratch_->clock.times();
    return output;
}

// With guidance: the other canvas first, its head rows kept aside, then the real one.
bool Denoiser::run_guided(const StepInput& input, StepOutput& output) {
    if (!input.guidance.ids.empty()) {
        if (!run_layers(input, input.guidance.ids, output)) return false;
        gather_head_rows(input, /*sums=*/0);
        scratch_->unguided = scratch_->input.values();
        scratch_->clock.charge(&StepTimes::head_ns);
    }
    return run_layers(input, input.ids, output);
}

bool Denoiser::run_head(const StepInput& input, StepOutput& output) {
    if (input.head_rows.empty()) return true;
    gather_head_rows(input, head_weights_->sums());
    if (!input.guidance.ids.empty()) guide(input);
    std::vector<int32_t> positions;
    for (const int32_t row : input.head_rows)
        positions.push_back(input.positions[static_cast<size_t>(row)]);
    HeadOptions options = input.head;
    if (options.num_choices <= 0) options.num_choices = shape_.vocab_size;
    const bool done = scratch_->head.run(
        machine(), *head_weights_, scratch_->input, positions, options,
        [&] { return should_stop(input); }, output.rows);
    scratch_->clock.charge(&StepTimes::head_ns);
    return done;
}

void Denoiser::gather_head_rows(const StepInput& input, SumKinds sums) {
    normalise(machine(), output_norm_, input.head_rows, sums, "the final norm");
}

void Denoiser::guide(const StepInput& input) {
    const std::vector<float> guided = scratch_->input.values();
    const int64_t size = shape_.hidden_size;
    const auto combine = [&](int row, float* out) {
        for (int64_t i = row * size; i < (row + 1) * size; ++i) {
            const float u = scratch_->unguided[static_cast<size_t>(i)];
            const float c = guided[static_cast<size_t>(i)];
            *out++ = u + (input.guidance.scale + 1.0f) * (c - u);
        }
    };
    const int rows = static_cast<int>(input.head_rows.size());
    if (!scratch_->input.fill(machine(), rows, size, head_weights_->sums(), combine))
        throw NumericFault("non-finite numbers leave the guidance");
}

void Denoiser::logits(const std::vector<int32_t>& ids, const AttentionMask& mask,
                      const std::vector<int32_t>& gated_rows, float* out) {
    StepInput input;
    input.ids = ids;
    input.positions.resize(ids.size());
    std::iota(input.positions.begin(), input.positions.end(), 0);
    input.mask = mask;
    input.gated_rows = gated_rows;
    check_step(input, shape_);
    require_panels();
    const std::lock_guard lock(mutex_);
    StepOutput ignored;
    run_layers(input, input.ids, ignored);
    const Machine machine = this->machine();
    normalise(machine, output_norm_, scratch_->all_rows, head_weights_->sums(), "the final norm");
    multiply(machine, scratch_->input, {{&*head_weights_, out, shape_.vocab_size}});
    const int64_t count = static_cast<int64_t>(ids.size()) * shape_.vocab_size;
    if (!std::all_of(out, out + count, [](float x) { return std::isfinite(x); }))
        throw NumericFault("the head's logits are not finite");
}

bool Denoiser::run_layers(const StepInput& input, const std::vector<int32_t>& ids,
                          StepOutput& output) {
    const Machine machine = this->machine();
    rope_.extend(input.last_position() + 1);
    plan_keys(input);
    embed(input, ids);
    scratch_->clock.charge(&StepTimes::other_ns);
    for (int64_t i = 0; i < shape_.num_layers; ++i) {
        if (should_stop(input)) return false;
        const Layer& layer = layers_[static_cast<size_t>(i)];
        run_attention(machine, layer, i, input);
        run_feed_forward(machine, layer, i, input);
        if (layer.experts) scratch_->mixture.count(output.experts);
        ++output.layers_done;
    }
    return !should_stop(input);
}

void Denoiser::embed(const StepInput& input, const std::vector<int32_t>& ids) {
    const int64_t size = shape_.hidden_size;
    const std::byte* rows = file_->bytes_of(*embedding_);
    const int64_t row_size = static_cast<int64_t>(embedding_->num_bytes) / shape_.vocab_size;
    scratch_->hidden.resize(input.ids.size() * static_cast<size_t>(size));
    size_t gated = 0;  // of the rows so far
    for (size_t i = 0; i < input.ids.size(); ++i) {
        float* hidden = scratch_->hidden.data() + static_cast<int64_t>(i) * size;
        const bool is_gated =
            gated < input.gated_rows.size() && input.gated_rows[gated] == static_cast<int64_t>(i);
        if (is_gated) ++gated;
        if (is_gated && !mask_embedding_.empty())
            std::copy_n(mask_embedding_.data(), size, hidden);
        else
            dequantize_row(embedding_->type, rows + ids[i] * row_size, size, hidden);
        if (!position_table_.empty())
            kernels_.add(position_table_.data() + input.positions[i] * size, size, hidden);
    }
    if (input.ids.size() >= many_rows) file_->let_go(*embedding_);
}

void Denoiser::normalise(const Machine& machine, const std::vector<float>& weight,
                         const std::vector<int32_t>& rows, SumKinds sums,
                         const std::string& place) {
    const int64_t size = shape_.hidden_size;
    std::atomic<bool> finite{true};
    const bool quantized = scratch_->input.fill(
        machine, static_cast<int>(rows.size()), size, sums, [&](int row, float* out) {
            const float* hidden = scratch_->hidden.data() + rows[static_cast<size_t>(row)] * size;
            if (!std::isfinite(
                    kernels_.rms_norm(hidden, weight.data(), size, shape_.rms_norm_eps, out)))
                finite = false;
        });
    if (!finite || !quantized) throw NumericFault("non-finite numbers enter " + place);
}

void Denoiser::run_attention(const Machine& machine, const Layer& layer, int64_t index,
                             const StepInput& input) {
    Scratch& s = *scratch_;
    const int64_t rows = static_cast<int64_t>(input.ids.size());
    const int64_t width = shape_.query_width();
    normalise(machine, layer.attention_norm, s.all_rows, layer.input_sums(), layer_name(index));
    if (s.seen != nullptr) s.seen->attention = s.input.values();
    charge_input();
    s.queries.resize(static_cast<size_t>(rows * width));
    s.attended.resize(s.queries.size());
    multiply(machine, s.input,
             {{&layer.query.weights, s.queries.data(), width},
              {&layer.key.weights, shadow_keys(index, 0), shape_.kv_width()},
              {&layer.value.weights, shadow_values(index, 0), shape_.kv_width()}});
    raise(machine, index, input,
          {{&layer.raises.query, s.queries.data(), width},
           {&layer.raises.key, shadow_keys(index, 0), shape_.kv_width()},
           {&layer.raises.value, shadow_values(index, 0), shape_.kv_width()}});
    s.clock.charge(&StepTimes::gemm_ns);
    const int64_t elements = rows * (width + 2 * shape_.kv_width());
    machine.pool.run({rows, elements * rotated_element}, [&](int64_t row, int) {
        finish_row(layer, index, row, input.positions[static_cast<size_t>(row)]);
        if (s.stores_at_once && row < input.num_kept()) store_row(input, index, row);
    });
    s.clock.charge(&StepTimes::other_ns);
    attend(machine, index, input);
    s.clock.charge(&StepTimes::attention_ns);
    const auto copy = [&](int row, float* out) {
        std::copy_n(s.attended.data() + row * width, width, out);
    };
    if (!s.input.fill(machine, static_cast<int>(rows), width, layer.attention_output.sums(), copy))
        throw NumericFault("non-finite numbers leave the attention of " + layer_name(index));
    if (s.seen != nullptr) s.seen->attention_output = s.input.values();
    charge_input();
    s.projected.resize(static_cast<size_t>(rows * shape_.hidden_size));
    multiply(machine, s.input, {{&layer.attention_output, s.projected.data(), shape_.hidden_size}});
    raise(machine, index, input,
          {{&layer.raises.attention_output, s.projected.data(), shape_.hidden_size}});
    s.clock.charge(&StepTimes::gemm_ns);
    add_to_hidden(machine, s.projected);
}

// Whoever has just filled the input did so to quantize it, or did not.
void Denoiser::charge_input() {
    const bool quantized = scratch_->input.is_quantized();
    scratch_->clock.charge(quantized ? &StepTimes::quantize_ns : &StepTimes::other_ns);
}

// Biases, per-head norms and the rotation of one row's query, key and value.
void Denoiser::finish_row(const Layer& layer, int64_t index, int64_t row, int64_t position) {
    const AttentionShape& a = shape_.attention;
    const auto finish = [&](const std::vector<float>& bias, const std::vector<float>& norm,
                            float* heads, int64_t num_heads) {
        if (!bias.empty()) kernels_.add(bias.data(), static_cast<int64_t>(bias.size()), heads);
        for (int64_t h = 0; !norm.empty() && h < num_heads; ++h)
            kernels_.rms_norm(heads + h * a.head_dim, norm.data(), a.head_dim, shape_.rms_norm_eps,
                              heads + h * a.head_dim);
    };
    float* query = scratch_->queries.data() + row * shape_.query_width();
    float* key = shadow_keys(index, row);
    finish(layer.query.bias, layer.query_norm, query, a.num_heads);
    finish(layer.key.bias, layer.key_norm, key, a.num_kv_heads);
    finish(layer.value.bias, {}, shadow_values(index, row), a.num_kv_heads);
    rope_.rotate(query, a.num_heads, a.head_dim, position);
    if (const float scale = shape_.query_scale.at(position); scale != 1.0f)
        for (int64_t i = 0; i < shape_.query_width(); ++i) query[i] *= scale;
    rope_.rotate(key, a.num_kv_heads, a.head_dim, position);
}

void Denoiser::raise(const Machine& machine, int64_t index, const StepInput& input,
                     std::initializer_list<Raised> products) {
    if (input.gated_rows.empty()) return;
    if (!scratch_->gate_rows.raise(machine, scratch_->input, input.gated_rows, products))
        throw NumericFault("non-finite numbers in the adapter of " + layer_name(index));
}

void Denoiser::run_feed_forward(const Machine& machine, const Layer& layer, int64_t index,
                                const StepInput& input) {
    Scratch& s = *scratch_;
    const int64_t rows = static_cast<int64_t>(s.all_rows.size());
    const int64_t wide = layer.gate.num_outputs();
    normalise(machine, layer.feed_forward_norm, s.all_rows, layer.gate_sums(),
              "the feed-forward part of " + layer_name(index));
    if (s.seen != nullptr) s.seen->feed_forward = s.input.values();
    charge_input();
    if (layer.experts && !s.mixture.run(machine, *layer.experts, s.input, s.clock))
        throw NumericFault("non-finite numbers in the experts of " + layer_name(index));
    if (layer.experts && s.seen != nullptr) s.mixture.show(*s.seen);
    if (wide > 0)
        run_dense_part(machine, layer, index, input);
    else
        s.projected.assign(static_cast<size_t>(rows * shape_.hidden_size), 0.0f);
    if (layer.experts) s.mixture.add_to(machine, shape_.hidden_size, s.projected.data());
    add_to_hidden(machine, s.projected);
}

// Gate, up and down of what all rows go through.
void Denoiser::run_dense_part(const Machine& machine, const Layer& layer, int64_t index,
                              const StepInput& input) {
    Scratch& s = *scratch_;
    const int64_t rows = static_cast<int64_t>(s.all_rows.size());
    const int64_t wide = layer.gate.num_outputs();
    s.gate.resize(static_cast<size_t>(rows * wide));
    s.up.resize(s.gate.size());
    multiply(machine, s.input,
             {{&layer.gate, s.gate.data(), wide}, {&layer.up, s.up.data(), wide}});
    raise(machine, index, input,
          {{&layer.raises.gate, s.gate.data(), wide}, {&layer.raises.up, s.up.data(), wide}});
    s.clock.charge(&StepTimes::gemm_ns);
    const auto activate = [&](int row, float* out) {
        kernels_.silu_multiply(s.gate.data() + row * wide, s.up.data() + row * wide, wide, out);
    };
    if (!s.input.fill(machine, static_cast<int>(rows), wide, layer.down.sums(), activate))
        throw NumericFault("non-finite numbers in the feed-forward part of " + layer_name(index));
    if (s.seen != nullptr) s.seen->down = s.input.values();
    charge_input();
    multiply(machine, s.input, {{&layer.down, s.projected.data(), shape_.hidden_size}});
    raise(machine, index, input, {{&layer.raises.down, s.projected.data(), shape_.hidden_size}});
    s.clock.charge(&StepTimes::gemm_ns);
}

void Denoiser::add_to_hidden(const Machine& machine, const std::vector<float>& rows) {
    const int64_t size = shape_.hidden_size;
    const auto num_rows = static_cast<int64_t>(scratch_->all_rows.size());
    machine.pool.run({num_rows, num_rows * size * added_element}, [&](int64_t row, int) {
        kernels_.add(rows.data() + row * size, size, scratch_->hidden.data() + row * size);
    });
    scratch_->clock.charge(&StepTimes::other_ns);
}

}  // namespace edge

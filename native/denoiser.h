// The network: token ids in, per-row statistics out. It knows nothing of steps, budgets or text.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "attention.h"
#include "head.h"
#include "key_blocks.h"
#include "kv_cache.h"
#include "layer.h"
#include "layerwise.h"
#include "linear.h"
#include "model_file.h"
#include "panel_file.h"
#include "rope.h"
#include "shape.h"
#include "step.h"
#include "thread_pool.h"
#include "weights.h"

namespace edge {

struct EngineOptions {
    int num_threads = 1;
    Activations activations = Activations::int8;
    std::optional<KeyFormat> kv;  // none: bf16 if weights and activations are quantized, else f32
    std::string isa;              // empty: the best
    bool pack = true;             // false: it is for the caller to say where the panels are to be
};

class Denoiser {
public:
    // Throws FileFault or UnsupportedFault when the file's tensors do not fit the shape, and like
    // select_kernels.
    Denoiser(std::shared_ptr<const ModelFile> file, const DenoiserShape& shape,
             const EngineOptions& options);
    ~Denoiser();

    const DenoiserShape& shape() const { return shape_; }
    const char* isa() const { return kernels_.isa; }

    // Panels of quantized weights are packed into memory, or into a new side file, or mapped from
    // one, which throws FileFault when it is not what was written.
    int64_t panel_bytes() const;
    void pack_panels();
    void write_panels(const std::string& path, const PanelSource& source);
    void map_panels(const std::string& path, const PanelSource& source);

    // Throws std::invalid_argument for impossible input, NumericFault for non-finite numbers.
    // Nothing outside the output changes unless the step completes. Calls are serialised.
    StepOutput step(const StepInput& input);

    // Logits [rows, vocab_size] of a forward without cache over positions 0..ids-1.
    void logits(const std::vector<int32_t>& ids, const AttentionMask& mask,
                const std::vector<int32_t>& gated_rows, float* out);

    // The parts of `logits`, for calibration; hidden states are [rows, hidden_size].
    std::vector<float> embedded(const std::vector<int32_t>& ids);
    void run_layer(int64_t index, const AttentionMask& mask, std::vector<float>& hidden,
                   LayerInputs* seen);
    std::vector<float> head_inputs(const std::vector<float>& hidden);
    void head_logits(const std::vector<float>& hidden, float* out);

    // From now on multiply by the matrix of that name in `file`. An embedding is replaced where it
    // is the head only. Throws like the constructor.
    void replace(const std::string& name, std::shared_ptr<const ModelFile> file);

private:
    struct Scratch;

    Machine machine();
    WeightMatrix* find_matrix(const std::string& name);
    std::vector<WeightMatrix>* find_experts(const std::string& name);
    void take_hidden(const std::vector<float>& hidden);
    void require_panels() const;
    bool run_layers(const StepInput& input, const std::vector<int32_t>& ids, StepOutput& output);
    bool run_guided(const StepInput& input, StepOutput& output);
    bool run_head(const StepInput& input, StepOutput& output);
    void gather_head_rows(const StepInput& input, SumKinds sums);
    void guide(const StepInput& input);
    void charge_input();
    void finish_row(const Layer& layer, int64_t index, int64_t row, int64_t position);
    void embed(const StepInput& input, const std::vector<int32_t>& ids);
    void run_attention(const Machine& machine, const Layer& layer, int64_t index,
                       const StepInput& input);
    void run_feed_forward(const Machine& machine, const Layer& layer, int64_t index,
                          const StepInput& input);
    void raise(const Machine& machine, int64_t index, const StepInput& input,
               std::initializer_list<Raised> products);
    void run_dense_part(const Machine& machine, const Layer& layer, int64_t index,
                        const StepInput& input);
    void add_to_hidden(const Machine& machine, const std::vector<float>& rows);
    void normalise(const Machine& machine, const std::vector<float>& weight,
                   const std::vector<int32_t>& rows, SumKinds sums, const std::string& place);
    void attend(const Machine& machine, int64_t index, const StepInput& input);
    void plan_keys(const StepInput& input);
    float* shadow_keys(int64_t layer, int64_t row);
    float* shadow_values(int64_t layer, int64_t row);
    void store_row(const StepInput& input, int64_t layer, int64_t row);
    void publish(const StepInput& input);

    std::shared_ptr<const ModelFile> file_;
    std::map<std::string, std::shared_ptr<const ModelFile>> replaced_;
    DenoiserShape shape_;
    const KernelTable& kernels_;
    Activations activations_;
    int num_threads_;
    int pool_owner_;  // process id: a forked child has no workers and needs its own
    std::unique_ptr<ThreadPool> pool_;
    Rope rope_;
    PanelList panels_;
    std::unique_ptr<PanelFile> panel_file_;
    const TensorInfo* embedding_;
    std::vector<float> position_table_;  // [context_length, hidden_size] or empty
    std::vector<float> mask_embedding_;  // [hidden_size] of gated rows, or empty
    std::vector<Layer> layers_;
    std::vector<float> output_norm_;
    std::optional<WeightMatrix> head_weights_;  // the embedding itself when the head is tied
    std::unique_ptr<Scratch> scratch_;
    std::mutex mutex_;
};

}  // namespace edge

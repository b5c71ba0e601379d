// A linear layer's weights as the kernels read them.
#pragma once

#include <cstdint>
#include <memory>

#include "group_codes.h"
#include "kernels/kernels.h"
#include "model_file.h"
#include "panels.h"

namespace edge {

// Which activations and sums of them quantized weights need: a bit per size of a group and, for
// int8 activations, zero point; none for float weights.
using SumKinds = uint32_t;
constexpr int sums_per_set = 6;  // groups of 16, 32, 64, 128 and 256 columns, whole rows
constexpr int bf16_set = 3;
constexpr SumKinds int8_kinds = (SumKinds{1} << (bf16_set * sums_per_set)) - 1;

inline SumKinds kind_in_set(int set, int64_t group) {
    const bool is_usual = group <= max_block && (group & (group - 1)) == 0;
    const int size =
        is_usual ? __builtin_ctzll(static_cast<uint64_t>(group / sum_step)) : sums_per_set - 1;
    return SumKinds{1} << (set * sums_per_set + size);
}
inline SumKinds sum_kind(int64_t group, int zero_point) {
    return kind_in_set(zero_point == 0 ? 0 : zero_point == 8 ? 1 : 2, group);
}

// Float weights stay where they are in the read-only mapping; quantized ones are read from panels,
// which whoever loads the file must place before a product. [num_outputs, depth].
class WeightMatrix {
public:
    WeightMatrix() = default;  // of no outputs
    // `file` must stay mapped while this lives. With `bf16_activations` quantized weights meet
    // bfloat16 where they would meet int8.
    WeightMatrix(const ModelFile& file, const TensorInfo& tensor, bool bf16_activations = false);

    // One of the matrices of a tensor of three dimensions, as all of which this was made.
    WeightMatrix matrix(int64_t index) const;

    int64_t num_outputs() const { return num_outputs_; }  // of a matrix
    int64_t depth() const { return depth_; }
    int64_t num_panels() const { return (num_outputs_ + panel_cols - 1) / panel_cols; }
    bool is_quantized() const { return panels_ != nullptr; }
    SumKinds sums() const {
        if (panels_ == nullptr) return 0;
        if (bf16_activations_) return kind_in_set(bf16_set, panels_->code().group);
        return sum_kind(panels_->code().group, panels_->code().zero_point());
    }

    FloatWeights stored() const { return {format_, data_, depth_}; }  // not quantized

    // Quantized:
    int bits() const { return panels_->code().bits; }
    Panel panel(int64_t index) const { return panels_->panel(first_panel_ + index); }
    const std::shared_ptr<Panels>& panels() const { return panels_; }

private:
    int64_t num_outputs_ = 0;
    int64_t depth_ = 0;
    int64_t num_bytes_ = 0;  // of a matrix as it is stored
    int64_t first_panel_ = 0;
    FloatFormat format_ = FloatFormat::f32;
    const std::byte* data_ = nullptr;
    bool bf16_activations_ = false;
    std::shared_ptr<Panels> panels_;  // nullptr: float weights
};

}  // namespace edge

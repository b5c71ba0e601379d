// A linear layer's weights as the kernels read them.
#pragma once

#include <cstdint>
#include <memory>

#include "group_codes.h"
#include "kernels/kernels.h"
#include "model_file.h"
#include "panels.h"

namespace edge {

// Which sums of activations quantized weights need: a bit per size of a group and zero point, none
// for weights that take float activations.
using SumKinds = uint32_t;
constexpr int sums_per_zero_point = 6;  // groups of 16, 32, 64, 128 and 256 columns, whole rows

inline SumKinds sum_kind(int64_t group, int zero_point) {
    const bool is_usual = group <= max_block && (group & (group - 1)) == 0;
    const int size = is_usual ? __builtin_ctzll(static_cast<uint64_t>(group / sum_step))
                              : sums_per_zero_point - 1;
    const int set = zero_point == 0 ? 0 : zero_point == 8 ? 1 : 2;
    return SumKinds{1} << (set * sums_per_zero_point + size);
}

// Float weights stay where they are in the read-only mapping; quantized ones are read from panels,
// which whoever loads the file must place before a product. [num_outputs, depth].
class WeightMatrix {
public:
    // `file` must stay mapped while this lives. With `float_activations` what is multiplied stays
    // in float, whatever the engine does elsewhere.
    WeightMatrix(const ModelFile& file, const TensorInfo& tensor, bool float_activations = false);

    int64_t num_outputs() const { return num_outputs_; }
    int64_t depth() const { return depth_; }
    int64_t num_panels() const { return (num_outputs_ + panel_cols - 1) / panel_cols; }
    bool is_quantized() const { return panels_ != nullptr; }
    SumKinds sums() const {
        if (panels_ == nullptr || float_activations_) return 0;
        return sum_kind(panels_->code().group, panels_->code().zero_point());
    }

    FloatWeights stored() const { return {format_, data_, depth_}; }  // not quantized

    // Quantized:
    int bits() const { return panels_->code().bits; }
    Panel panel(int64_t index) const { return panels_->panel(index); }
    const std::shared_ptr<Panels>& panels() const { return panels_; }

private:
    int64_t num_outputs_;
    int64_t depth_;
    FloatFormat format_ = FloatFormat::f32;
    const std::byte* data_;
    bool float_activations_;
    std::shared_ptr<Panels> panels_;  // nullptr: float weights
};

}  // namespace edge

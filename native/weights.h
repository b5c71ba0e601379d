// A linear layer's weights as the kernels read them.
#pragma once

#include <cstdint>
#include <memory>

#include "group_codes.h"
#include "kernels/kernels.h"
#include "model_file.h"
#include "panels.h"

namespace edge {

// Which sums of activations quantized weights need: a bit per size of a group, none for weights
// that take float activations.
using GroupSizes = uint32_t;
constexpr GroupSizes whole_row = GroupSizes{1} << 31;
// `group` is 16, 32, 64 ... 256; any other size is that of a whole row.
inline GroupSizes group_bit(int64_t group) {
    const bool is_usual = group <= max_block && (group & (group - 1)) == 0;
    return is_usual ? static_cast<GroupSizes>(group / sum_step) : whole_row;
}

// Float weights stay where they are in the read-only mapping; quantized ones are read from panels,
// which whoever loads the file must place before a product. [num_outputs, depth].
class WeightMatrix {
public:
    // `file` must stay mapped while this lives.
    WeightMatrix(const ModelFile& file, const TensorInfo& tensor);

    int64_t num_outputs() const { return num_outputs_; }
    int64_t depth() const { return depth_; }
    int64_t num_panels() const { return (num_outputs_ + panel_cols - 1) / panel_cols; }
    bool is_quantized() const { return panels_ != nullptr; }
    GroupSizes groups() const { return panels_ ? group_bit(panels_->code().group) : 0; }

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
    std::shared_ptr<Panels> panels_;  // nullptr: float weights
};

}  // namespace edge

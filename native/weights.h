// A linear layer's weights as the kernels read them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "group_codes.h"
#include "kernels/kernels.h"
#include "model_file.h"
#include "thread_pool.h"

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

// Float weights stay where they are in the read-only mapping; quantized ones are interleaved into
// panels once (kernels.h says how). [num_outputs, depth].
class WeightMatrix {
public:
    // `file` must stay mapped while this lives.
    WeightMatrix(const ModelFile& file, const TensorInfo& tensor, ThreadPool& pool);

    int64_t num_outputs() const { return num_outputs_; }
    int64_t depth() const { return depth_; }
    int64_t num_panels() const { return (num_outputs_ + panel_cols - 1) / panel_cols; }
    bool is_quantized() const { return code_.has_value(); }
    int bits() const { return code_->bits; }                                   // quantized
    GroupSizes groups() const { return code_ ? group_bit(code_->group) : 0; }  // for LinearInput

    FloatWeights stored() const { return {format_, data_, depth_}; }  // not quantized
    Panel panel(int64_t index) const;                                 // quantized

private:
    // [panels][depth / group][16] or, of whole numbers, with factors [panels][depth / 256][16].
    struct Scales {
        std::vector<uint16_t> halves;
        std::vector<int8_t> whole;
    };

    int64_t num_groups() const { return depth_ / code_->group; }
    int64_t num_halves() const { return code_->is_fine ? depth_ / max_block : num_groups(); }
    void reserve(Scales& scales);
    PanelScales of_panel(const Scales& scales, int64_t index) const;
    void pack(ThreadPool& pool);
    void pack_panel(int64_t index);
    void place(const UnpackedBlock& block, int64_t first_k, int64_t panel, int column);

    int64_t num_outputs_;
    int64_t depth_;
    std::optional<GroupCode> code_;
    FloatFormat format_ = FloatFormat::f32;
    int64_t row_bytes_;
    const std::byte* data_;
    std::vector<uint8_t> lines_;
    Scales scales_;
    Scales minima_;
};

}  // namespace edge

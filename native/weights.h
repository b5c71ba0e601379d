// A linear layer's weights as the kernels read them.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "model_file.h"
#include "thread_pool.h"

namespace edge {

// Float weights stay where they are in the read-only mapping; q8_0 and q4_0 are interleaved into
// panels once (kernels.h says how). [num_outputs, depth].
class WeightMatrix {
public:
    // `file` must stay mapped while this lives.
    WeightMatrix(const ModelFile& file, const TensorInfo& tensor, ThreadPool& pool);

    int64_t num_outputs() const { return num_outputs_; }
    int64_t depth() const { return depth_; }
    int64_t num_panels() const { return (num_outputs_ + panel_cols - 1) / panel_cols; }
    bool is_quantized() const { return bits_ != 0; }
    int bits() const { return bits_; }

    FloatWeights stored() const { return {format_, data_, depth_}; }  // not quantized
    Panel panel(int64_t index) const;                                 // quantized

private:
    void pack(ThreadPool& pool);
    void pack_panel(int64_t index);

    int64_t num_outputs_;
    int64_t depth_;
    int bits_ = 0;  // 8 or 4 when quantized
    FloatFormat format_ = FloatFormat::f32;
    const std::byte* data_;
    std::vector<uint8_t> lines_;
    std::vector<uint16_t> scales_;
};

}  // namespace edge

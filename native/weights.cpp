#include "weights.h"

#include <cstring>
#include <stdexcept>

namespace edge {
namespace {

constexpr int q8_group_bytes = 34;
constexpr int q4_group_bytes = 18;

int group_bytes(int bits) { return bits == 8 ? q8_group_bytes : q4_group_bytes; }

// One stored group becomes one column of its lines: four bytes of every 64.
void spread_q8_group(const std::byte* group, uint8_t* lines, int column) {
    for (int i = 0; i < weight_group; ++i) {
        const int value = static_cast<int8_t>(group[2 + i]);
        lines[i / 4 * line_bytes + column * 4 + i % 4] = static_cast<uint8_t>(value + 128);
    }
}

int stored_nibble(const std::byte* group, int index) {
    const int half = weight_group / 2;
    const int pair = static_cast<int>(group[2 + index % half]);
    return index < half ? pair & 15 : pair >> 4;
}

void spread_q4_group(const std::byte* group, uint8_t* lines, int column) {
    for (int i = 0; i < weight_group; i += 8)
        for (int k = 0; k < 4; ++k)
            lines[i / 8 * line_bytes + column * 4 + k] = static_cast<uint8_t>(
                stored_nibble(group, i + k) | stored_nibble(group, i + 4 + k) << 4);
}

}  // namespace

WeightMatrix::WeightMatrix(const ModelFile& file, const TensorInfo& tensor, ThreadPool& pool)
    : num_outputs_(static_cast<int64_t>(tensor.rows())),
      depth_(static_cast<int64_t>(tensor.cols())),
      data_(file.bytes_of(tensor)) {
    switch (tensor.type) {
        case TensorType::f32: format_ = FloatFormat::f32; return;
        case TensorType::f16: format_ = FloatFormat::f16; return;
        case TensorType::bf16: format_ = FloatFormat::bf16; return;
        case TensorType::q8_0: bits_ = 8; break;
        case TensorType::q4_0: bits_ = 4; break;
        default: throw std::logic_error("no kernel for this tensor type");
    }
    pack(pool);
}

Panel WeightMatrix::panel(int64_t index) const {
    const int64_t panel_bytes = depth_ * panel_cols * bits_ / 8;
    return {lines_.data() + index * panel_bytes,
            scales_.data() + index * (depth_ / weight_group) * panel_cols, depth_};
}

void WeightMatrix::pack(ThreadPool& pool) {
    const int64_t padded_outputs = num_panels() * panel_cols;
    // Columns that do not exist have scale zero, so their values do not matter.
    lines_.assign(static_cast<size_t>(padded_outputs * depth_ * bits_ / 8), 0);
    scales_.assign(static_cast<size_t>(padded_outputs * (depth_ / weight_group)), 0);
    pool.run(num_panels(), [this](int64_t index, int) { pack_panel(index); });
}

void WeightMatrix::pack_panel(int64_t index) {
    const int64_t groups = depth_ / weight_group;
    const int64_t group_line_bytes = weight_group * panel_cols * bits_ / 8;
    uint8_t* lines = lines_.data() + index * groups * group_line_bytes;
    uint16_t* scales = scales_.data() + index * groups * panel_cols;
    for (int column = 0; column < panel_cols; ++column) {
        const int64_t output = index * panel_cols + column;
        if (output >= num_outputs_) return;
        for (int64_t g = 0; g < groups; ++g) {
            const std::byte* group = data_ + (output * groups + g) * group_bytes(bits_);
            std::memcpy(&scales[g * panel_cols + column], group, sizeof(uint16_t));
            (bits_ == 8 ? spread_q8_group : spread_q4_group)(group, lines + g * group_line_bytes,
                                                             column);
        }
    }
}

}  // namespace edge

#include "weights.h"

#include <stdexcept>

namespace edge {
namespace {

// Four consecutive weights of a column are neighbours; a line of 4-bit weights holds eight, the
// later four in the high nibbles.
void spread(const uint8_t* weights, int count, int bits, uint8_t* lines, int column) {
    const int per_line = bits == 8 ? 4 : 8;
    for (int i = 0; i < count; i += per_line, lines += line_bytes)
        for (int k = 0; k < 4; ++k)
            lines[column * 4 + k] =
                bits == 8 ? weights[i + k]
                          : static_cast<uint8_t>(weights[i + k] | weights[i + 4 + k] << 4);
}

}  // namespace

WeightMatrix::WeightMatrix(const ModelFile& file, const TensorInfo& tensor, ThreadPool& pool)
    : num_outputs_(static_cast<int64_t>(tensor.rows())),
      depth_(static_cast<int64_t>(tensor.cols())),
      code_(find_group_code(tensor.type)),
      row_bytes_(static_cast<int64_t>(tensor.num_bytes / tensor.rows())),
      data_(file.bytes_of(tensor)) {
    if (code_) {
        pack(pool);
        return;
    }
    switch (tensor.type.id) {
        case TensorType::f32: format_ = FloatFormat::f32; return;
        case TensorType::f16: format_ = FloatFormat::f16; return;
        case TensorType::bf16: format_ = FloatFormat::bf16; return;
        default: throw std::logic_error("no kernel for this tensor type");
    }
}

Panel WeightMatrix::panel(int64_t index) const {
    const int64_t panel_bytes = depth_ * panel_cols * code_->bits / 8;
    return {lines_.data() + index * panel_bytes, of_panel(scales_, index), of_panel(minima_, index),
            depth_, code_->group};
}

PanelScales WeightMatrix::of_panel(const Scales& scales, int64_t index) const {
    if (scales.halves.empty()) return {nullptr, nullptr};
    const int64_t columns = index * panel_cols;
    return {scales.halves.data() + columns * num_halves(),
            scales.whole.empty() ? nullptr : scales.whole.data() + columns * num_groups()};
}

void WeightMatrix::reserve(Scales& scales) {
    const int64_t columns = num_panels() * panel_cols;
    scales.halves.assign(static_cast<size_t>(columns * num_halves()), 0);
    if (code_->is_fine) scales.whole.assign(static_cast<size_t>(columns * num_groups()), 0);
}

void WeightMatrix::pack(ThreadPool& pool) {
    // Columns that do not exist have scale zero, so their values do not matter.
    lines_.assign(static_cast<size_t>(num_panels() * panel_cols * depth_ * code_->bits / 8), 0);
    reserve(scales_);
    if (code_->has_minima) reserve(minima_);
    pool.run(num_panels(), [this](int64_t index, int) { pack_panel(index); });
}

void WeightMatrix::pack_panel(int64_t index) {
    UnpackedBlock block{};
    for (int column = 0; column < panel_cols; ++column) {
        const int64_t output = index * panel_cols + column;
        if (output >= num_outputs_) return;
        for (int64_t b = 0; b < depth_ / code_->block; ++b) {
            unpack_block(*code_, data_ + output * row_bytes_, b, block);
            place(block, b * code_->block, index, column);
        }
    }
}

void WeightMatrix::place(const UnpackedBlock& block, int64_t first_k, int64_t panel, int column) {
    uint8_t* lines = lines_.data() + (panel * depth_ + first_k) * panel_cols * code_->bits / 8;
    spread(block.weights, code_->block, code_->bits, lines, column);
    const auto store = [&](Scales& scales, const uint16_t* halves, const int8_t* whole) {
        const int64_t group = panel * num_groups() + first_k / code_->group;
        const int64_t half = code_->is_fine ? panel * num_halves() + first_k / max_block : group;
        const int per_block = code_->groups_per_block();
        for (int i = 0; i < (code_->is_fine ? 1 : per_block); ++i)
            scales.halves[static_cast<size_t>((half + i) * panel_cols + column)] = halves[i];
        for (int i = 0; code_->is_fine && i < per_block; ++i)
            scales.whole[static_cast<size_t>((group + i) * panel_cols + column)] = whole[i];
    };
    store(scales_, block.scales, block.fine_scales);
    if (code_->has_minima) store(minima_, block.minima, block.fine_minima);
}

}  // namespace edge

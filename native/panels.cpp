#include "panels.h"

#include <cstring>

namespace edge {
namespace {

int64_t aligned(int64_t num_bytes) {
    return (num_bytes + line_bytes - 1) / line_bytes * line_bytes;
}

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

Panels::Panels(const ModelFile& file, const TensorInfo& tensor, const GroupCode& code)
    : file_(file),
      tensor_(tensor),
      code_(code),
      num_matrices_(tensor.shape.size() == 3 ? static_cast<int64_t>(tensor.shape[0]) : 1),
      num_outputs_(static_cast<int64_t>(tensor.rows()) / num_matrices_),
      depth_(static_cast<int64_t>(tensor.cols())),
      row_bytes_(static_cast<int64_t>(tensor.num_bytes / tensor.rows())),
      num_groups_(depth_ / code.group),
      num_halves_(code.is_fine ? depth_ / max_block : num_groups_),
      parts_(find_parts()) {}

Panels::Parts Panels::find_parts() const {
    const int64_t columns = num_panels() * panel_cols;
    int64_t end = num_panels() * panel_bytes();
    const auto add = [&end](int64_t size) {
        const int64_t begin = end;
        end = aligned(end + size);
        return begin;
    };
    const auto add_scales = [&]() -> ScaleParts {
        const int64_t halves = add(columns * num_halves_ * 2);
        return {halves, code_.is_fine ? add(columns * num_groups_) : halves};
    };
    const ScaleParts scales = add_scales();
    const ScaleParts minima = code_.has_minima ? add_scales() : scales;
    return {scales, minima, end};
}

void Panels::keep(AlignedBytes packed) {
    owned_ = std::move(packed);
    packed_ = owned_.get();
}

Panel Panels::panel(int64_t index) const {
    const auto* lines = reinterpret_cast<const uint8_t*>(packed_ + index * panel_bytes());
    const PanelScales minima =
        code_.has_minima ? of_panel(parts_.minima, index) : PanelScales{nullptr, nullptr};
    return {lines, of_panel(parts_.scales, index), minima, depth_, code_.group};
}

PanelScales Panels::of_panel(const ScaleParts& parts, int64_t index) const {
    const int64_t columns = index * panel_cols;
    const auto* halves = reinterpret_cast<const uint16_t*>(packed_ + parts.halves);
    const auto* whole = reinterpret_cast<const int8_t*>(packed_ + parts.whole);
    return {halves + columns * num_halves_,
            code_.is_fine ? whole + columns * num_groups_ : nullptr};
}

void Panels::pack(std::byte* out, ThreadPool& pool) const {
    pool.run(num_panels(), [&](int64_t index, int) { pack_panel(out, index); });
    file_.let_go(tensor_);
}

// Columns that do not exist keep a scale of zero, so their values do not matter.
void Panels::pack_panel(std::byte* out, int64_t index) const {
    const std::byte* stored = file_.bytes_of(tensor_);
    UnpackedBlock block{};
    const int64_t matrix = index / panels_per_matrix();
    const int64_t first = index % panels_per_matrix() * panel_cols;
    for (int column = 0; column < panel_cols && first + column < num_outputs_; ++column) {
        const int64_t row = matrix * num_outputs_ + first + column;
        for (int64_t b = 0; b < depth_ / code_.block; ++b) {
            code_.unpack(code_, stored + row * row_bytes_, b, block);
            place(out, block, b * code_.block, index, column);
        }
    }
}

void Panels::place(std::byte* out, const UnpackedBlock& block, int64_t first_k, int64_t panel,
                   int column) const {
    std::byte* lines = out + (panel * depth_ + first_k) * panel_cols * code_.bits / 8;
    spread(block.weights, code_.block, code_.bits, reinterpret_cast<uint8_t*>(lines), column);
    place_scales(out, parts_.scales, block.scales, block.fine_scales, first_k, panel, column);
    if (code_.has_minima)
        place_scales(out, parts_.minima, block.minima, block.fine_minima, first_k, panel, column);
}

void Panels::place_scales(std::byte* out, const ScaleParts& parts, const uint16_t* halves,
                          const int8_t* whole, int64_t first_k, int64_t panel, int column) const {
    auto* half_place = reinterpret_cast<uint16_t*>(out + parts.halves);
    auto* whole_place = reinterpret_cast<int8_t*>(out + parts.whole);
    const int64_t group = panel * num_groups_ + first_k / code_.group;
    const int64_t half = code_.is_fine ? panel * num_halves_ + first_k / max_block : group;
    const int per_block = code_.groups_per_block();
    for (int i = 0; i < (code_.is_fine ? 1 : per_block); ++i)
        half_place[(half + i) * panel_cols + column] = halves[i];
    for (int i = 0; code_.is_fine && i < per_block; ++i)
        whole_place[(group + i) * panel_cols + column] = whole[i];
}

}  // namespace edge

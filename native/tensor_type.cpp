#include "tensor_type.h"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace edge {
namespace {

constexpr std::array layouts{
    TypeLayout{TensorType::f32, "f32", 1, 4},       TypeLayout{TensorType::f16, "f16", 1, 2},
    TypeLayout{TensorType::q4_0, "q4_0", 32, 18},   TypeLayout{TensorType::q4_1, "q4_1", 32, 20},
    TypeLayout{TensorType::q5_0, "q5_0", 32, 22},   TypeLayout{TensorType::q5_1, "q5_1", 32, 24},
    TypeLayout{TensorType::q8_0, "q8_0", 32, 34},   TypeLayout{TensorType::q8_1, "q8_1", 32, 36},
    TypeLayout{TensorType::q2_k, "q2_k", 256, 84},  TypeLayout{TensorType::q3_k, "q3_k", 256, 110},
    TypeLayout{TensorType::q4_k, "q4_k", 256, 144}, TypeLayout{TensorType::q5_k, "q5_k", 256, 176},
    TypeLayout{TensorType::q6_k, "q6_k", 256, 210}, TypeLayout{TensorType::q8_k, "q8_k", 256, 292},
    TypeLayout{TensorType::i8, "i8", 1, 1},         TypeLayout{TensorType::i16, "i16", 1, 2},
    TypeLayout{TensorType::i32, "i32", 1, 4},       TypeLayout{TensorType::i64, "i64", 1, 8},
    TypeLayout{TensorType::f64, "f64", 1, 8},       TypeLayout{TensorType::bf16, "bf16", 1, 2},
    TypeLayout{TensorType::int8, "int8", 0, 0},     TypeLayout{TensorType::int4, "int4", 0, 0},
};

template <typename Matches>
const TypeLayout* find_where(Matches matches) {
    const auto found = std::find_if(layouts.begin(), layouts.end(), matches);
    return found == layouts.end() ? nullptr : &*found;
}

}  // namespace

const TypeLayout* find_type(uint32_t id) {
    return find_where([id](const TypeLayout& l) {
        return !is_own(l.type) && static_cast<uint32_t>(l.type) == id;
    });
}

const TypeLayout* find_type(std::string_view name) {
    return find_where([name](const TypeLayout& l) { return l.name == name; });
}

const TypeLayout& layout_of(TensorType type) {
    const TypeLayout* found = find_where([type](const TypeLayout& l) { return l.type == type; });
    if (found == nullptr) throw std::logic_error("tensor type without a layout");
    return *found;
}

std::optional<uint64_t> row_bytes(const TypeLayout& layout, uint64_t cols) {
    if (cols % layout.group_size != 0) return std::nullopt;
    return cols / layout.group_size * layout.group_bytes;
}

std::optional<uint64_t> row_bytes(const StoredType& type, uint64_t cols) {
    if (!is_own(type.id)) return row_bytes(layout_of(type.id), cols);
    if (type.group_size == 0 || cols % type.group_size != 0) return std::nullopt;
    const uint64_t weights = type.id == TensorType::int8 ? cols : cols / 2;
    return weights + cols / type.group_size * (type.has_minima ? 4 : 2);
}

}  // namespace edge

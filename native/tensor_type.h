// The ggml tensor types a GGUF may name: how many values a group holds, and in how many bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace edge {

enum class TensorType : uint32_t {
    f32 = 0,
    f16 = 1,
    q4_0 = 2,
    q4_1 = 3,
    q5_0 = 6,
    q5_1 = 7,
    q8_0 = 8,
    q8_1 = 9,
    q2_k = 10,
    q3_k = 11,
    q4_k = 12,
    q5_k = 13,
    q6_k = 14,
    q8_k = 15,
    i8 = 24,
    i16 = 25,
    i32 = 26,
    i64 = 27,
    f64 = 28,
    bf16 = 30,
};

struct TypeLayout {
    TensorType type;
    std::string_view name;
    uint32_t group_size;  // values that are stored together
    uint32_t group_bytes;
};

// nullptr for an id or name that is not in the table.
const TypeLayout* find_type(uint32_t id);
const TypeLayout* find_type(std::string_view name);
const TypeLayout& layout_of(TensorType type);

// Bytes of a row of `cols` values; empty when the group size does not divide it.
std::optional<uint64_t> row_bytes(const TypeLayout& layout, uint64_t cols);

}  // namespace edge

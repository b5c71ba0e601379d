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
    // Our own: byte tensors in a file, named and described by its keys (own_types.h).
    int8 = 0x10000,
    int4,
};

struct TypeLayout {
    TensorType type;
    std::string_view name;
    uint32_t group_size;  // values that are stored together; 0 where that varies
    uint32_t group_bytes;
};

// How a tensor's weights are stored. Our own types leave the group size to the file, and int4 also
// whether a group has a minimum; ggml's types settle both.
struct StoredType {
    StoredType(TensorType of_ggml) : id(of_ggml) {}
    StoredType(TensorType own, uint64_t size, bool minima)
        : id(own), group_size(size), has_minima(minima) {}

    TensorType id;
    uint64_t group_size = 0;  // of our own types
    bool has_minima = false;
};

inline bool is_own(TensorType type) { return type == TensorType::int8 || type == TensorType::int4; }

// nullptr for an id that a file may not name, or a name that is not in the table.
const TypeLayout* find_type(uint32_t id);
const TypeLayout* find_type(std::string_view name);
const TypeLayout& layout_of(TensorType type);

// Bytes of a row of `cols` values; empty when the group size does not divide it.
std::optional<uint64_t> row_bytes(const TypeLayout& layout, uint64_t cols);
std::optional<uint64_t> row_bytes(const StoredType& type, uint64_t cols);

}  // namespace edge

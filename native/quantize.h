// Reference conversion of rows between float and the stored types, bit-equal to ggml's; for our own
// types this is the reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tensor_type.h"

namespace edge {

// True for the types that quantize_row, and for those that dequantize_row knows.
bool can_quantize(TensorType type);
bool can_dequantize(const StoredType& type);

// The type of that name for rows of `cols` values; a group size of 0 is the type's own or its
// default. Throws std::invalid_argument when there is none that can be read, or written as well.
StoredType readable_type(const std::string& name, int64_t cols, int64_t group_size,
                         bool has_minima);
StoredType writable_type(const std::string& name, int64_t cols, int64_t group_size,
                         bool has_minima);

// `cols` must be a multiple of the type's group size; `out` holds row_bytes(type, cols) bytes.
void quantize_row(const StoredType& type, const float* values, int64_t cols, std::byte* out);
void dequantize_row(const StoredType& type, const std::byte* stored, int64_t cols, float* out);

}  // namespace edge

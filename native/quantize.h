// Reference conversion of rows between float and the stored types, bit-equal to ggml's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor_type.h"

namespace edge {

// True for the types that quantize_row, and for those that dequantize_row knows.
bool can_quantize(TensorType type);
bool can_dequantize(TensorType type);

// `cols` must be a multiple of the type's group size; `out` holds row_bytes(type, cols) bytes.
void quantize_row(TensorType type, const float* values, int64_t cols, std::byte* out);
void dequantize_row(TensorType type, const std::byte* stored, int64_t cols, float* out);

}  // namespace edge

// How each quantized type writes its weights, and what they mean: one algebra for all of them.
//
//   weight = scale * (stored - zero_point) - minimum
//
// A group of weights shares scale and minimum. Types with a `fine_step` have whole numbers of 8
// bits per group and an fp16 factor per block; the others have fp16 bits per group.
// Layouts: ggml's block_q8_0, block_q4_K ... (ggml-common.h of ggml-org/llama.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor_type.h"

namespace edge {

constexpr int max_block = 256;  // weights that are stored together
constexpr int max_groups = max_block / 16;

// One block as the kernels see it: weights with the zero point of `GroupCode::bits` in place.
struct UnpackedBlock {
    uint8_t weights[max_block];
    uint16_t scales[max_groups];  // fp16, per group or the first for all
    uint16_t minima[max_groups];
    int8_t fine_scales[max_groups];
    int8_t fine_minima[max_groups];
};

struct GroupCode {
    TensorType type;
    int bits;   // 4 or 8, of a weight in a panel
    int group;  // weights that share a scale
    bool is_fine;
    bool has_minima;
    void (*unpack)(const std::byte* stored, UnpackedBlock& block);

    // 4-bit weights with a minimum count from zero.
    int zero_point() const { return bits == 8 ? 128 : has_minima ? 0 : 8; }
};

// nullptr for a type that is not quantized or that this version does not read.
const GroupCode* find_group_code(TensorType type);

// A block's weights as float, in the order of operations of ggml's reference.
void dequantize_block(const GroupCode& code, const std::byte* stored, float* out);

}  // namespace edge

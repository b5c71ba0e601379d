// How each quantized type writes its weights, and what they mean: one algebra for all of them.
//
//   weight = scale * (stored - zero_point) - minimum
//
// A group of weights shares scale and minimum. Fine types have whole numbers of 8
// bits per group and an fp16 factor per block; the others have fp16 bits per group.
// Layouts: ggml's block_q8_0, block_q4_K ... (ggml-common.h of ggml-org/llama.cpp), and our own, of
// which a row holds, group by group:
//   int8  fp16 scale, then a signed byte per weight; a group may be the whole row
//   int4  fp16 scale, fp16 minimum if there are minima, then 16 bytes per 32 weights: the low
//         nibbles are the first 16 of them, the high ones the others
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

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
    int bits;       // 4 or 8, of a weight in a panel
    int64_t group;  // weights that share a scale
    bool is_fine;
    bool has_minima;
    // Block `index` of a stored row.
    void (*unpack)(const GroupCode& code, const std::byte* row, int64_t index,
                   UnpackedBlock& block);
    int block = 0;        // weights that are unpacked at once: some groups, or a part of a long one
    int block_bytes = 0;  // of ggml's types

    int groups_per_block() const { return group > block ? 1 : static_cast<int>(block / group); }

    // 4-bit weights with a minimum count from zero.
    int zero_point() const { return bits == 8 ? 128 : has_minima ? 0 : 8; }
};

// The largest group whose sum of int8 products cannot leave 32 bits.
constexpr uint64_t max_group_size = INT32_MAX / (128 * 127);

// Empty for a type that is not quantized or that this version does not read.
std::optional<GroupCode> find_group_code(const StoredType& type);

// The weights of block `index` of a stored row as float, in the order of operations of ggml's
// reference.
void dequantize_block(const GroupCode& code, const std::byte* row, int64_t index, float* out);

}  // namespace edge

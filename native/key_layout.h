// Where a head's keys and values lie in blocks of sixteen, in each format that the kernels read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace edge {

struct AttentionShape {
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t head_dim;
    KeyFormat format = KeyFormat::f32;

    int64_t key_block() const;  // bytes of a KeyBlock's keys, a multiple of line_bytes
    int64_t value_block() const;

    // Put one head's key and value at a place of a block.
    void place(const KernelTable& kernels, std::byte* keys, std::byte* values, int64_t place,
               const float* key, const float* value) const;
    // What is stored there, as float.
    void read(const std::byte* keys, const std::byte* values, int64_t place, float* key,
              float* value) const;
};

}  // namespace edge

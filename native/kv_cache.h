// Keys and values of positions whose token no longer changes, kept between steps.
#pragma once

#include <cstdint>
#include <vector>

#include "attention.h"

namespace edge {

// Slots are positions, 16 to a block as the kernels read them (KeyBlock). A step reads valid slots
// and makes its own rows' valid only when it has completed, so that a cancelled or failed step
// leaves the cache as it was: what it has written to slots that are not valid counts for nothing.
class KvCache {
public:
    KvCache(int64_t num_layers, const AttentionShape& shape, int64_t capacity);
    // Memory that such a cache takes.
    static int64_t num_bytes(int64_t num_layers, const AttentionShape& shape, int64_t capacity);

    int64_t num_layers() const { return num_layers_; }
    KeyFormat format() const { return shape_.format; }
    int64_t width() const { return shape_.num_kv_heads * shape_.head_dim; }
    int64_t capacity() const { return capacity_; }
    const std::vector<uint8_t>& valid() const { return valid_; }  // [capacity]
    uint32_t valid_in_block(int64_t block) const;                 // a bit per slot

    const std::byte* keys(int64_t layer, int64_t kv_head, int64_t block) const {
        return keys_.get() + block_index(layer, kv_head, block) * shape_.key_block();
    }
    const std::byte* values(int64_t layer, int64_t kv_head, int64_t block) const {
        return values_.get() + block_index(layer, kv_head, block) * shape_.value_block();
    }

    // Rows of num_kv_heads * head_dim.
    void store(const KernelTable& kernels, int64_t layer, int64_t position, const float* key,
               const float* value);
    void load(int64_t layer, int64_t position, float* key, float* value) const;

    bool holds_any(const std::vector<int32_t>& positions) const;
    // Zeros, which are finite; for slots that are not valid.
    void clear(const std::vector<int32_t>& positions);
    void mark_valid(int64_t position) { valid_[static_cast<size_t>(position)] = 1; }
    // Forget every position from `length` on.
    void truncate(int64_t length);
    // Make room for positions below `capacity`; what is stored stays.
    void reserve(int64_t capacity);

private:
    int64_t block_index(int64_t layer, int64_t kv_head, int64_t block) const {
        return (layer * shape_.num_kv_heads + kv_head) * num_blocks_ + block;
    }

    int64_t num_layers_;
    AttentionShape shape_;
    int64_t capacity_;
    int64_t num_blocks_;
    AlignedBytes keys_;    // [layers][kv_heads][blocks][key_block]
    AlignedBytes values_;  // [layers][kv_heads][blocks][value_block]
    std::vector<uint8_t> valid_;
};

}  // namespace edge

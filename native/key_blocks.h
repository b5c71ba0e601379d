// The keys and values that a step's rows attend: blocks of 16 positions, read where they lie in the
// cache or, where active tokens belong to them, put together for the step.
#pragma once

#include <cstdint>
#include <vector>

#include "kv_cache.h"
#include "linear.h"

namespace edge {

class KeyBlocks {
public:
    explicit KeyBlocks(const AttentionShape& shape) : shape_(shape) {}

    // Decide once for all layers: which of a step's rows have the keys, and which rows see them all
    // in spite of the mask. Positions of the rows ascend, `cache` may be null.
    void plan(const std::vector<int32_t>& positions, std::vector<int32_t> rows,
              const KvCache* cache, const AttentionMask& mask, const std::vector<int32_t>& see_all);

    // How many places of the blocks each of the rows sees.
    const std::vector<int32_t>& visible() const { return visible_; }

    // One layer's blocks [num_kv_heads][blocks]; keys and values are the step's [active]
    // [num_kv_heads * head_dim].
    const std::vector<KeyBlock>& of_layer(int64_t layer, const KvCache* cache, const float* keys,
                                          const float* values, const Machine& machine);

private:
    struct Entry {
        int64_t block;  // positions 16 * block onwards
        uint32_t valid;
        uint32_t cached;
        int64_t first_row, last_row;  // of rows_, those that belong to it
        int64_t fresh;                // its place among the blocks put together, or -1
    };

    struct Place {
        std::byte* keys;
        std::byte* values;
    };

    void put_together(const KernelTable& kernels, int64_t layer, const KvCache* cache,
                      const float* keys, const float* values, int64_t kv_head, const Entry& entry,
                      const Place& place);

    AttentionShape shape_;
    std::vector<int32_t> rows_;       // of the step
    std::vector<int32_t> positions_;  // theirs
    std::vector<Entry> entries_;      // in position order, those without any key left out
    std::vector<int64_t> fresh_;      // indices of the entries to put together
    std::vector<int32_t> visible_;
    Room key_room_, value_room_;  // [kv_heads][fresh]
    std::vector<KeyBlock> blocks_;
};

}  // namespace edge

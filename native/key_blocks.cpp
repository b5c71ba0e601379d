#include "key_blocks.h"

#include <algorithm>
#include <utility>

namespace edge {

void KeyBlocks::plan(const std::vector<int32_t>& positions, std::vector<int32_t> rows,
                     const KvCache* cache, const AttentionMask& mask,
                     const std::vector<int32_t>& see_all) {
    rows_ = std::move(rows);
    positions_.clear();
    for (const int32_t row : rows_) positions_.push_back(positions[static_cast<size_t>(row)]);
    entries_.clear();
    fresh_.clear();
    const int64_t active = static_cast<int64_t>(positions_.size());
    const int64_t capacity = cache == nullptr ? 0 : cache->capacity();
    const int64_t end = std::max<int64_t>(capacity, active == 0 ? 0 : positions_.back() + 1);
    int64_t row = 0;
    for (int64_t block = 0; block * block_keys < end; ++block) {
        Entry entry{block, 0, 0, row, row, -1};
        if (block * block_keys < capacity) entry.cached = cache->valid_in_block(block);
        entry.valid = entry.cached;
        for (; row < active && positions_[static_cast<size_t>(row)] / block_keys == block; ++row)
            entry.valid |= 1u << positions_[static_cast<size_t>(row)] % block_keys;
        entry.last_row = row;
        if (entry.valid == 0) continue;
        if (entry.last_row > entry.first_row) {
            entry.fresh = static_cast<int64_t>(fresh_.size());
            fresh_.push_back(static_cast<int64_t>(entries_.size()));
        }
        entries_.push_back(entry);
    }
    visible_.clear();
    for (const int32_t position : positions_) {
        const int64_t visible_end = mask.visible_end(position);
        const auto past = std::partition_point(
            entries_.begin(), entries_.end(),
            [&](const Entry& e) { return (e.block + 1) * block_keys <= visible_end; });
        int64_t places = (past - entries_.begin()) * block_keys;
        if (past != entries_.end())
            places += std::max<int64_t>(0, visible_end - past->block * block_keys);
        visible_.push_back(static_cast<int32_t>(places));
    }
    const auto all = static_cast<int32_t>(static_cast<int64_t>(entries_.size()) * block_keys);
    for (size_t i = 0; i < rows_.size(); ++i)
        if (std::binary_search(see_all.begin(), see_all.end(), rows_[i])) visible_[i] = all;
}

const std::vector<KeyBlock>& KeyBlocks::of_layer(int64_t layer, const KvCache* cache,
                                                 const float* keys, const float* values,
                                                 const Machine& machine) {
    const int64_t num_fresh = static_cast<int64_t>(fresh_.size());
    std::byte* key_room = key_room_.of(shape_.num_kv_heads * num_fresh * shape_.key_block());
    std::byte* value_room = value_room_.of(shape_.num_kv_heads * num_fresh * shape_.value_block());
    const auto place_of = [&](int64_t kv_head, const Entry& entry) {
        const int64_t index = kv_head * num_fresh + entry.fresh;
        return Place{key_room + index * shape_.key_block(),
                     value_room + index * shape_.value_block()};
    };
    const int64_t num_chunks = shape_.num_kv_heads * num_fresh;
    machine.pool.run(
        {num_chunks, num_chunks * block_keys * shape_.head_dim * quantized_element},
        [&](int64_t chunk, int) {
            const auto& entry =
                entries_[static_cast<size_t>(fresh_[static_cast<size_t>(chunk % num_fresh)])];
            const int64_t kv_head = chunk / num_fresh;
            put_together(machine.kernels, layer, cache, keys, values, kv_head, entry,
                         place_of(kv_head, entry));
        });
    blocks_.clear();
    for (int64_t h = 0; h < shape_.num_kv_heads; ++h)
        for (const Entry& entry : entries_) {
            if (entry.fresh < 0) {
                blocks_.push_back({cache->keys(layer, h, entry.block),
                                   cache->values(layer, h, entry.block), entry.valid});
            } else {
                const Place place = place_of(h, entry);
                blocks_.push_back({place.keys, place.values, entry.valid});
            }
        }
    return blocks_;
}

void KeyBlocks::put_together(const KernelTable& kernels, int64_t layer, const KvCache* cache,
                             const float* keys, const float* values, int64_t kv_head,
                             const Entry& entry, const Place& place) {
    const bool is_whole = entry.last_row - entry.first_row == block_keys;
    if (!is_whole && entry.cached != 0) {
        std::copy_n(cache->keys(layer, kv_head, entry.block), shape_.key_block(), place.keys);
        std::copy_n(cache->values(layer, kv_head, entry.block), shape_.value_block(), place.values);
    } else if (!is_whole) {  // places without a key are finite
        std::fill_n(place.keys, shape_.key_block(), std::byte{0});
        std::fill_n(place.values, shape_.value_block(), std::byte{0});
    }
    const int64_t width = shape_.num_kv_heads * shape_.head_dim;
    for (int64_t row = entry.first_row; row < entry.last_row; ++row) {
        const int64_t at = rows_[static_cast<size_t>(row)] * width + kv_head * shape_.head_dim;
        shape_.place(kernels, place.keys, place.values,
                     positions_[static_cast<size_t>(row)] % block_keys, keys + at, values + at);
    }
}

}  // namespace edge

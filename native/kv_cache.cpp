#include "kv_cache.h"

#include <algorithm>
#include <utility>

namespace edge {

int64_t KvCache::num_bytes(int64_t num_layers, const AttentionShape& shape, int64_t capacity) {
    const int64_t blocks = (capacity + block_keys - 1) / block_keys;
    return num_layers * shape.num_kv_heads * blocks * (shape.key_block() + shape.value_block());
}

KvCache::KvCache(int64_t num_layers, const AttentionShape& shape, int64_t capacity)
    : num_layers_(num_layers),
      shape_(shape),
      capacity_(capacity),
      num_blocks_((capacity + block_keys - 1) / block_keys),
      valid_(static_cast<size_t>(capacity), 0) {
    const int64_t blocks = num_layers * shape.num_kv_heads * num_blocks_;
    keys_ = allocate_aligned(blocks * shape.key_block());
    values_ = allocate_aligned(blocks * shape.value_block());
}

uint32_t KvCache::valid_in_block(int64_t block) const {
    uint32_t bits = 0;
    const int64_t last = std::min(capacity_, (block + 1) * block_keys);
    for (int64_t p = block * block_keys; p < last; ++p)
        bits |= static_cast<uint32_t>(valid_[static_cast<size_t>(p)]) << p % block_keys;
    return bits;
}

void KvCache::store(const KernelTable& kernels, int64_t layer, int64_t position, const float* key,
                    const float* value) {
    for (int64_t h = 0; h < shape_.num_kv_heads; ++h) {
        const int64_t index = block_index(layer, h, position / block_keys);
        shape_.place(kernels, keys_.get() + index * shape_.key_block(),
                     values_.get() + index * shape_.value_block(), position % block_keys,
                     key + h * shape_.head_dim, value + h * shape_.head_dim);
    }
}

void KvCache::load(int64_t layer, int64_t position, float* key, float* value) const {
    for (int64_t h = 0; h < shape_.num_kv_heads; ++h)
        shape_.read(keys(layer, h, position / block_keys), values(layer, h, position / block_keys),
                    position % block_keys, key + h * shape_.head_dim, value + h * shape_.head_dim);
}

bool KvCache::holds_any(const std::vector<int32_t>& positions) const {
    return std::any_of(positions.begin(), positions.end(),
                       [this](int32_t p) { return valid_[static_cast<size_t>(p)] != 0; });
}

void KvCache::clear(const std::vector<int32_t>& positions) {
    const std::vector<float> zeros(static_cast<size_t>(width()), 0.0f);
    for (int64_t layer = 0; layer < num_layers_; ++layer)
        for (const int32_t position : positions)
            store(generic_kernels, layer, position, zeros.data(), zeros.data());
}

void KvCache::truncate(int64_t length) {
    for (int64_t p = std::max<int64_t>(0, length); p < capacity_; ++p)
        valid_[static_cast<size_t>(p)] = 0;
}

void KvCache::reserve(int64_t capacity) {
    if (capacity <= capacity_) return;
    KvCache larger(num_layers_, shape_, capacity);
    const auto copy = [this, &larger](const AlignedBytes& from, AlignedBytes& to, int64_t size) {
        for (int64_t head = 0; head < num_layers_ * shape_.num_kv_heads; ++head)
            std::copy_n(from.get() + head * num_blocks_ * size, num_blocks_ * size,
                        to.get() + head * larger.num_blocks_ * size);
    };
    copy(keys_, larger.keys_, shape_.key_block());
    copy(values_, larger.values_, shape_.value_block());
    std::copy(valid_.begin(), valid_.end(), larger.valid_.begin());
    *this = std::move(larger);
}

}  // namespace edge

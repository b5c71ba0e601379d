// Keys and values of positions whose token no longer changes, kept between steps.
#pragma once

#include <cstdint>
#include <vector>

namespace edge {

// Slots are positions. A step reads valid slots and publishes its own rows only when it has
// completed, so that a cancelled or failed step leaves the cache as it was.
class KvCache {
public:
    KvCache(int64_t num_layers, int64_t width, int64_t capacity)
        : num_layers_(num_layers),
          width_(width),
          capacity_(capacity),
          keys_(static_cast<size_t>(num_layers * capacity * width)),
          values_(keys_.size()),
          valid_(static_cast<size_t>(capacity), 0) {}

    int64_t num_layers() const { return num_layers_; }
    int64_t width() const { return width_; }
    int64_t capacity() const { return capacity_; }
    bool is_valid(int64_t position) const { return valid_[static_cast<size_t>(position)] != 0; }
    const std::vector<uint8_t>& valid() const { return valid_; }

    float* key(int64_t layer, int64_t position) { return keys_.data() + slot(layer, position); }
    float* value(int64_t layer, int64_t position) { return values_.data() + slot(layer, position); }

    void mark_valid(int64_t position) { valid_[static_cast<size_t>(position)] = 1; }
    // Forget every position from `length` on.
    void truncate(int64_t length) {
        for (int64_t p = length < 0 ? 0 : length; p < capacity_; ++p)
            valid_[static_cast<size_t>(p)] = 0;
    }

private:
    int64_t slot(int64_t layer, int64_t position) const {
        return (layer * capacity_ + position) * width_;
    }

    int64_t num_layers_;
    int64_t width_;
    int64_t capacity_;
    std::vector<float> keys_;
    std::vector<float> values_;
    std::vector<uint8_t> valid_;
};

}  // namespace edge

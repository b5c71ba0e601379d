// Memory that begins at a multiple of a weight line, so that vector loads do not straddle two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace edge {

struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
};
using AlignedBytes = std::unique_ptr<std::byte, Free>;

// Zeros. Throws std::bad_alloc.
AlignedBytes allocate_aligned(int64_t num_bytes);

// Room that is used again and again and grows when it must, which loses what is in it.
class Room {
public:
    std::byte* of(int64_t num_bytes) {
        if (num_bytes > size_) {
            size_ = 0;
            bytes_ = allocate_aligned(num_bytes);
            size_ = num_bytes;
        }
        return bytes_.get();
    }

private:
    AlignedBytes bytes_;
    int64_t size_ = 0;
};

}  // namespace edge

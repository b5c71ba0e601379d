#include "aligned.h"

#include <cstring>
#include <new>

#include "kernels/kernels.h"

namespace edge {

AlignedBytes allocate_aligned(int64_t num_bytes) {
    const int64_t whole = (num_bytes + line_bytes - 1) / line_bytes * line_bytes;
    const auto size = static_cast<size_t>(whole);
    AlignedBytes bytes(static_cast<std::byte*>(std::aligned_alloc(line_bytes, size)));
    if (!bytes && size > 0) throw std::bad_alloc();
    if (size > 0) std::memset(bytes.get(), 0, size);
    return bytes;
}

}  // namespace edge

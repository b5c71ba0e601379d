// Buffers between two pages that nobody may touch, so that one element too many is a crash.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <vector>

#include "check.h"

namespace edge::test {

// Which of the two forbidden pages a buffer touches.
enum class Side { front, back };
// qemu 7.2 reads all of a vector that a masked AVX load has only a part of.
inline const std::vector<Side> both_sides =
    is_emulated_as("Haswell") ? std::vector{Side::front} : std::vector{Side::front, Side::back};

template <typename Element>
class Guarded {
public:
    explicit Guarded(size_t capacity) {
        page_ = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
        inner_ = (std::max<size_t>(1, capacity) * sizeof(Element) + page_ - 1) / page_ * page_;
        void* address =
            ::mmap(nullptr, inner_ + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (address == MAP_FAILED) throw std::bad_alloc();
        base_ = static_cast<std::byte*>(address);
        if (::mprotect(base_ + page_, inner_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    }
    ~Guarded() { ::munmap(base_, inner_ + 2 * page_); }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    // Room for `count` elements that ends or begins at a forbidden page.
    Element* at(Side side, size_t count) {
        std::byte* first = base_ + page_;
        if (side == Side::back) first += inner_ - count * sizeof(Element);
        return reinterpret_cast<Element*>(first);
    }
    Element* copy(Side side, const Element* values, size_t count) {
        return std::copy_n(values, count, at(side, count)) - count;
    }
    Element* copy(Side side, const std::vector<Element>& values) {
        return copy(side, values.data(), values.size());
    }
    Element* filled(Side side, size_t count, Element value) {
        return std::fill_n(at(side, count), count, value) - count;
    }

private:
    size_t page_ = 0;
    size_t inner_ = 0;
    std::byte* base_ = nullptr;
};

}  // namespace edge::test

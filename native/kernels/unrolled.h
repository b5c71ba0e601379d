// Loops over accumulators in registers, of which there is no element i unless they are unrolled.
#pragma once

namespace edge {
namespace {

template <int count, typename Visit>
[[gnu::always_inline]] inline void unrolled(Visit visit) {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) visit(i);
}

}  // namespace
}  // namespace edge

// Lines against several rows, one row after the other; included by the tables of ISAs that have
// no better way, after their lanes.
#pragma once

#include "kernels/unrolled.h"

namespace edge {
namespace {

template <int bits, int R>
inline void dot4_rows(StepSums<bits> (&acc)[R], Line w, const int8_t* activations) {
    unrolled<R>([&](int r) { acc[r] = dot4<bits>(acc[r], w, activations + r * 4); });
}

}  // namespace
}  // namespace edge

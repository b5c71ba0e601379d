// Dot products by VPDPBUSD in its 256-bit VEX form. Needs AVX-VNNI.
#pragma once

#include "kernels/avx2/lanes.h"

namespace edge {
namespace {

// Ten accumulators hide the instruction's latency; lines and nibbles take four registers more.
constexpr int tile_rows = 5;

template <int bits>
inline IntLanes start(int32_t folded) {
    const __m256i lanes = _mm256_set1_epi32(folded);
    return {lanes, lanes};
}
template <int bits>
inline IntLanes dot4(IntLanes acc, Line w, const int8_t* activations) {
    const __m256i a = spread_four(activations);
    return {_mm256_dpbusd_avx_epi32(acc.a, w.a, a), _mm256_dpbusd_avx_epi32(acc.b, w.b, a)};
}

}  // namespace
}  // namespace edge

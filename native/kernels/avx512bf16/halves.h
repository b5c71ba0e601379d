// Products with pairs of bfloat16 by VDPBF16PS. Needs AVX512_BF16.
#pragma once

#include "kernels/avx512vnni/lanes.h"

namespace edge {
namespace {

using Half = uint16_t;
using Pairs = __m512i;

inline Pairs load_pairs(const uint8_t* line) { return _mm512_loadu_si512(line); }

// Of numbers that bfloat16 holds exactly.
inline Pairs pairs_of(Lanes first, Lanes second) {
    const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
    return _mm512_or_si512(low, _mm512_castps_si512(second));
}

// In assembly for the reason that dot4 is.
inline Lanes dot2(Lanes acc, Pairs pairs, const Half* a) {
    asm("vdpbf16ps %2%{1to16%}, %1, %0"
        : "+v"(acc)
        : "v"(pairs), "m"(*reinterpret_cast<const FourBytes*>(a)));
    return acc;
}
inline void store_halves(Half* p, Lanes x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
}

}  // namespace
}  // namespace edge

// Dot products without an instruction for them.
#pragma once

#include "kernels/avx2/lanes.h"

namespace edge {
namespace {

constexpr int tile_rows = 4;

// maddubs adds two unsigned * signed products in 16 bits, which 8-bit weights would overflow.
// They are therefore made signed here (|w| * sign(w) a stays within +-32512), so that no zero
// point is left to fold; nibbles fit as they are.
template <int bits>
inline IntLanes start(int32_t folded) {
    const __m256i lanes = _mm256_set1_epi32(bits == 8 ? 0 : folded);
    return {lanes, lanes};
}
inline IntLanes zero_int() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline __m256i add_pairs(__m256i acc, __m256i pairs) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline __m256i signed_pairs(__m256i w, __m256i activations) {
    const __m256i centred = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    return _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(activations, centred));
}

// GCC would compute all products of an unrolled step before it adds any, and spill every one.
inline IntLanes in_this_order(IntLanes x) {
    asm("" : "+x"(x.a), "+x"(x.b));
    return x;
}

// Nibbles leave room in 16 bits for the pairs of a whole step of the depth (8 * 2 * 15 * 127),
// so that they are widened once at its end.
constexpr bool steps_have_sums = true;

template <int bits>
using StepSums = IntLanes;
template <int bits>
inline IntLanes begin_step(IntLanes acc) {
    return bits == 8 ? acc : zero_int();
}
template <int bits>
inline IntLanes dot4(IntLanes acc, Line w, const int8_t* activations) {
    const __m256i a = spread_four(activations);
    if (bits == 8) {
        acc.a = add_pairs(acc.a, signed_pairs(w.a, a));
        acc.b = add_pairs(acc.b, signed_pairs(w.b, a));
    } else {
        acc.a = _mm256_add_epi16(acc.a, _mm256_maddubs_epi16(w.a, a));
        acc.b = _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(w.b, a));
    }
    return in_this_order(acc);
}
template <int bits>
inline IntLanes end_step(IntLanes before, IntLanes acc) {
    if (bits == 8) return acc;
    return {add_pairs(before.a, acc.a), add_pairs(before.b, acc.b)};
}

}  // namespace
}  // namespace edge

// Sixteen lanes in one zmm register. Needs AVX-512 F, BW, DQ, VL, VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace edge {
namespace {

constexpr int tile_rows = 12;
constexpr int query_rows = 16;
constexpr int dot_rows = 4;
constexpr int dot_cols = 4;
constexpr int burst_chains = 12;

using Lanes = __m512;
using IntLanes = __m512i;
using Line = __m512i;

using FourBytes = int32_t __attribute__((may_alias));

inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline Lanes zero() { return _mm512_setzero_ps(); }
inline Lanes splat(float x) { return _mm512_set1_ps(x); }
// Broadcast by the conversion itself where x is in memory.
inline Lanes splat_whole(int32_t x) { return _mm512_cvtepi32_ps(_mm512_set1_epi32(x)); }
inline Lanes load(const float* p) { return _mm512_loadu_ps(p); }
inline Lanes load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline Lanes load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Lanes load_f16_first(const uint16_t* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
}
inline Lanes widen_bf16(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline Lanes load_bf16(const uint16_t* p) {
    return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Lanes load_bf16_first(const uint16_t* p, int n) {
    return widen_bf16(_mm256_maskz_loadu_epi16(first(n), p));
}
inline Lanes load_int8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
inline void store(float* p, Lanes a) { _mm512_storeu_ps(p, a); }
inline void store_first(float* p, Lanes a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }

inline Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes sub(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
inline Lanes mul(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes div(Lanes a, Lanes b) { return _mm512_div_ps(a, b); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes max(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
inline Lanes min(Lanes a, Lanes b) { return _mm512_min_ps(a, b); }
inline Lanes abs(Lanes a) { return _mm512_abs_ps(a); }
inline Lanes round_even(Lanes a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Lanes scale_by_power(Lanes a, Lanes n) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_mul_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23)));
}

inline __m256 upper(Lanes a) { return _mm512_extractf32x8_ps(a, 1); }
inline __m256 lower(Lanes a) { return _mm512_castps512_ps256(a); }

inline float sum(Lanes a) {
    const __m256 eight = _mm256_add_ps(lower(a), upper(a));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Lanes a) {
    const __m256 eight = _mm256_max_ps(lower(a), upper(a));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline void store_int8(int8_t* p, Lanes a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}

inline Line load_line(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Line low_nibbles(Line a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline Line high_nibbles(Line a) {
    return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15));
}
template <int k>
inline Lanes byte_as_float(Line a) {
    const __m512i byte = _mm512_and_si512(_mm512_srli_epi32(a, 8 * k), _mm512_set1_epi32(255));
    return _mm512_cvtepi32_ps(byte);
}

inline Lanes low_halves(Line a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
inline Lanes high_halves(Line a) {
    return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(-65536)));
}
inline Lanes round_bf16(Lanes a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i kept = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    kept = _mm512_mask_or_epi32(kept, is_nan, bits, _mm512_set1_epi32(0x400000));
    const __m512i exponent = _mm512_and_si512(bits, _mm512_set1_epi32(0x7F800000));
    const __mmask16 is_small = _mm512_cmpeq_epi32_mask(exponent, _mm512_setzero_si512());
    kept = _mm512_mask_and_epi32(kept, is_small, bits, _mm512_set1_epi32(INT32_MIN));
    return _mm512_castsi512_ps(_mm512_and_si512(kept, _mm512_set1_epi32(-65536)));
}

inline Lanes to_float(IntLanes a) { return _mm512_cvtepi32_ps(a); }

// Makes the compiler take the line for changed.
#if defined(__AVX512F__)
inline void forget(Line& a) { asm volatile("" : "+v"(a)); }
#else  // simulated, where nobody measures
inline void forget(Line&) {}
#endif

template <int bits>
inline IntLanes start(int32_t folded) {
    return _mm512_set1_epi32(folded);
}

// Four activations of a row, broadcast from memory. Said in assembly, since GCC would broadcast to
// a register first and copy every accumulator once per iteration.
template <int bits>
inline IntLanes dot4(IntLanes acc, Line w, const int8_t* activations) {
#if defined(__AVX512VNNI__)
    asm("vpdpbusd %2%{1to16%}, %1, %0"
        : "+v"(acc)
        : "v"(w), "m"(*reinterpret_cast<const FourBytes*>(activations)));
    return acc;
#else  // simulated
    int32_t four;
    std::memcpy(&four, activations, sizeof four);
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four));
#endif
}

}  // namespace
}  // namespace edge

// Sixteen lanes in two ymm registers. Needs AVX2, FMA, F16C. dot.h completes them, here and in
// avxvnni.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace edge {
namespace {

constexpr int query_rows = 4;
constexpr int dot_rows = 2;
constexpr int dot_cols = 2;
constexpr int burst_chains = 5;

struct Lanes {
    __m256 a, b;
};

struct IntLanes {
    __m256i a, b;
};

struct Line {
    __m256i a, b;
};

inline __m256i first_eight(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Lanes zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Lanes splat_whole(int32_t x) {
    const __m256 eight = _mm256_cvtepi32_ps(_mm256_set1_epi32(x));
    return {eight, eight};
}
inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Lanes load_first(const float* p, int n) {
    return {_mm256_maskload_ps(p, first_eight(n)),
            n > 8 ? _mm256_maskload_ps(p + 8, first_eight(n - 8)) : _mm256_setzero_ps()};
}

inline __m128i load_halves(const uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline Lanes load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(load_halves(p)), _mm256_cvtph_ps(load_halves(p + 8))};
}
inline __m256 widen_bf16(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline Lanes load_bf16(const uint16_t* p) {
    return {widen_bf16(load_halves(p)), widen_bf16(load_halves(p + 8))};
}

inline Lanes load_int8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}

struct HalfBuffer {
    uint16_t v[16];
};
inline HalfBuffer copy_first(const uint16_t* p, int n) {
    HalfBuffer buffer{};
    std::memcpy(buffer.v, p, static_cast<size_t>(n) * 2);
    return buffer;
}
inline Lanes load_f16_first(const uint16_t* p, int n) { return load_f16(copy_first(p, n).v); }
inline Lanes load_bf16_first(const uint16_t* p, int n) { return load_bf16(copy_first(p, n).v); }

inline void store(float* p, Lanes x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline void store_first(float* p, Lanes x, int n) {
    _mm256_maskstore_ps(p, first_eight(n), x.a);
    if (n > 8) _mm256_maskstore_ps(p + 8, first_eight(n - 8), x.b);
}

inline Lanes add(Lanes x, Lanes y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Lanes sub(Lanes x, Lanes y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Lanes mul(Lanes x, Lanes y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Lanes div(Lanes x, Lanes y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Lanes fma(Lanes x, Lanes y, Lanes z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Lanes max(Lanes x, Lanes y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Lanes min(Lanes x, Lanes y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Lanes abs(Lanes x) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    return {_mm256_and_ps(x.a, magnitude), _mm256_and_ps(x.b, magnitude)};
}
inline Lanes round_even(Lanes x) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
inline __m256 power_of_two(__m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
inline Lanes scale_by_power(Lanes x, Lanes n) {
    return {_mm256_mul_ps(x.a, power_of_two(n.a)), _mm256_mul_ps(x.b, power_of_two(n.b))};
}

inline float sum(Lanes x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Lanes x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline void store_int8(int8_t* p, Lanes x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);  // packs interleaves the halves
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline Line load_line(const uint8_t* p) {
    const auto* halves = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
inline Line low_nibbles(Line x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline Line high_nibbles(Line x) {
    return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
inline __m256i spread_four(const int8_t* activations) {
    int32_t four;
    std::memcpy(&four, activations, sizeof four);
    return _mm256_set1_epi32(four);
}
template <int k>
inline __m256 byte_as_float(__m256i x) {
    return _mm256_cvtepi32_ps(
        _mm256_and_si256(_mm256_srli_epi32(x, 8 * k), _mm256_set1_epi32(255)));
}
template <int k>
inline Lanes byte_as_float(Line x) {
    return {byte_as_float<k>(x.a), byte_as_float<k>(x.b)};
}

inline Lanes low_halves(Line x) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(x.a, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(x.b, 16))};
}
inline Lanes high_halves(Line x) {
    const __m256i high = _mm256_set1_epi32(-65536);
    return {_mm256_castsi256_ps(_mm256_and_si256(x.a, high)),
            _mm256_castsi256_ps(_mm256_and_si256(x.b, high))};
}
inline __m256 round_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    const __m256 rounded = _mm256_castsi256_ps(_mm256_add_epi32(bits, up));
    const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
    const __m256 quiet = _mm256_or_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x400000)));
    const __m256i exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7F800000));
    const __m256 is_small =
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(exponent, _mm256_setzero_si256()));
    const __m256 kept = _mm256_blendv_ps(rounded, quiet, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_and_ps(_mm256_blendv_ps(kept, sign, is_small),
                         _mm256_castsi256_ps(_mm256_set1_epi32(-65536)));
}
inline Lanes round_bf16(Lanes x) { return {round_bf16(x.a), round_bf16(x.b)}; }

inline Lanes to_float(IntLanes x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

// Makes the compiler take the line for changed.
inline void forget(Line& x) { asm volatile("" : "+x"(x.a), "+x"(x.b)); }

}  // namespace
}  // namespace edge

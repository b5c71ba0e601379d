// AVX-512 and AVX-VNNI on a CPU with AVX2: SIMD Everywhere's versions of the intrinsics, and
// those that it lacks. For tests only (CMakePresets.json, "simulated").
#pragma once

#include_next <immintrin.h>

#include <cstdint>
#include <cstring>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

namespace edge_simulated {

struct Floats {
    __m256 low, high;
};
struct Ints {
    __m256i low, high;
};

template <typename To, typename From>
To bits_as(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline __m256i lanes_of(unsigned mask) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bits),
                              bits);
}

// Masked ones touch nothing that the mask leaves out.
inline simde__m512 maskz_loadu_ps(unsigned mask, const void* from) {
    const auto* p = static_cast<const float*>(from);
    return bits_as<simde__m512>(Floats{_mm256_maskload_ps(p, lanes_of(mask)),
                                       _mm256_maskload_ps(p + 8, lanes_of(mask >> 8))});
}
inline void mask_storeu_ps(void* to, unsigned mask, simde__m512 x) {
    const auto halves = bits_as<Floats>(x);
    auto* p = static_cast<float*>(to);
    _mm256_maskstore_ps(p, lanes_of(mask), halves.low);
    _mm256_maskstore_ps(p + 8, lanes_of(mask >> 8), halves.high);
}
inline __m256i maskz_loadu_epi16(unsigned mask, const void* from) {
    uint16_t words[16] = {};
    for (int i = 0; i < 16; ++i)
        if ((mask >> i & 1) != 0) words[i] = static_cast<const uint16_t*>(from)[i];
    return bits_as<__m256i>(words);
}

inline simde__m512 cvtph_ps(__m256i x) {
    return bits_as<simde__m512>(Floats{_mm256_cvtph_ps(_mm256_castsi256_si128(x)),
                                       _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))});
}
inline simde__m512i cvtepu16_epi32(__m256i x) {
    return bits_as<simde__m512i>(Ints{_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
                                      _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))});
}
inline simde__m512i cvtepi8_epi32(__m128i x) {
    return bits_as<simde__m512i>(
        Ints{_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))});
}
inline simde__m512 cvtepi32_ps(simde__m512i x) {
    const auto halves = bits_as<Ints>(x);
    return bits_as<simde__m512>(
        Floats{_mm256_cvtepi32_ps(halves.low), _mm256_cvtepi32_ps(halves.high)});
}
inline simde__m512i cvtps_epi32(simde__m512 x) {
    const auto halves = bits_as<Floats>(x);
    return bits_as<simde__m512i>(
        Ints{_mm256_cvtps_epi32(halves.low), _mm256_cvtps_epi32(halves.high)});
}
inline __m128i cvtepi32_epi8(simde__m512i x) {
    int32_t whole[16];
    std::memcpy(whole, &x, sizeof whole);
    uint8_t bytes[16];
    for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(whole[i]);
    return bits_as<__m128i>(bytes);
}
inline __m256 extractf32x8_ps(simde__m512 x, int half) {
    const auto halves = bits_as<Floats>(x);
    return half == 0 ? halves.low : halves.high;
}

}  // namespace edge_simulated

#define _mm256_maskz_loadu_epi16 edge_simulated::maskz_loadu_epi16
#define _mm512_cvtepi32_epi8 edge_simulated::cvtepi32_epi8
#define _mm512_cvtepi32_ps edge_simulated::cvtepi32_ps
#define _mm512_cvtepi8_epi32 edge_simulated::cvtepi8_epi32
#define _mm512_cvtepu16_epi32 edge_simulated::cvtepu16_epi32
#define _mm512_cvtph_ps edge_simulated::cvtph_ps
#define _mm512_cvtps_epi32 edge_simulated::cvtps_epi32
#define _mm512_extractf32x8_ps edge_simulated::extractf32x8_ps
#define _mm512_mask_storeu_ps edge_simulated::mask_storeu_ps
#define _mm512_maskz_loadu_ps edge_simulated::maskz_loadu_ps
#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32

// Sixteen lanes in four q registers. Needs nothing beyond Armv8-A; dot.h needs more.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace edge {
namespace {

constexpr int query_rows = 4;
constexpr int dot_rows = 2;
constexpr int dot_cols = 2;
constexpr int burst_chains = 4;

struct Lanes {
    float32x4_t a, b, c, d;
};

struct IntLanes {
    int32x4_t a, b, c, d;
};

struct Line {
    uint8x16_t a, b, c, d;
};

// The same function on each of four registers.
template <typename Result = Lanes, typename Function, typename... Operand>
inline Result each(Function function, const Operand&... x) {
    return {function(x.a...), function(x.b...), function(x.c...), function(x.d...)};
}

inline Lanes splat(float x) {
    const float32x4_t four = vdupq_n_f32(x);
    return {four, four, four, four};
}
inline Lanes splat_whole(int32_t x) { return splat(static_cast<float>(x)); }
inline Lanes zero() { return splat(0.0f); }
inline Lanes load(const float* p) {
    return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}

template <typename Element>
struct Buffer {
    Element v[16];
};
template <typename Element>
inline Buffer<Element> copy_first(const Element* p, int n) {
    Buffer<Element> buffer{};
    std::memcpy(buffer.v, p, static_cast<size_t>(n) * sizeof(Element));
    return buffer;
}
inline Lanes load_first(const float* p, int n) { return load(copy_first(p, n).v); }

inline float32x4_t widen_f16(uint16x4_t halves) {
    return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}
inline Lanes load_f16(const uint16_t* p) {
    return {widen_f16(vld1_u16(p)), widen_f16(vld1_u16(p + 4)), widen_f16(vld1_u16(p + 8)),
            widen_f16(vld1_u16(p + 12))};
}
inline float32x4_t widen_bf16(uint16x4_t halves) {
    return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}
inline Lanes load_bf16(const uint16_t* p) {
    return {widen_bf16(vld1_u16(p)), widen_bf16(vld1_u16(p + 4)), widen_bf16(vld1_u16(p + 8)),
            widen_bf16(vld1_u16(p + 12))};
}
inline Lanes load_f16_first(const uint16_t* p, int n) { return load_f16(copy_first(p, n).v); }
inline Lanes load_bf16_first(const uint16_t* p, int n) { return load_bf16(copy_first(p, n).v); }

inline Lanes to_float(IntLanes x) {
    return each([](int32x4_t v) { return vcvtq_f32_s32(v); }, x);
}
inline Lanes load_int8(const int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes));
    const int16x8_t high = vmovl_s8(vget_high_s8(bytes));
    return to_float({vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                     vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))});
}

inline void store(float* p, Lanes x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
inline void store_first(float* p, Lanes x, int n) {
    float buffer[16];
    store(buffer, x);
    std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(float));
}

inline Lanes add(Lanes x, Lanes y) {
    return each([](float32x4_t v, float32x4_t w) { return vaddq_f32(v, w); }, x, y);
}
inline Lanes sub(Lanes x, Lanes y) {
    return each([](float32x4_t v, float32x4_t w) { return vsubq_f32(v, w); }, x, y);
}
inline Lanes mul(Lanes x, Lanes y) {
    return each([](float32x4_t v, float32x4_t w) { return vmulq_f32(v, w); }, x, y);
}
inline Lanes div(Lanes x, Lanes y) {
    return each([](float32x4_t v, float32x4_t w) { return vdivq_f32(v, w); }, x, y);
}
inline Lanes fma(Lanes x, Lanes y, Lanes z) {
    return each(
        [](float32x4_t v, float32x4_t w, float32x4_t term) { return vfmaq_f32(term, v, w); }, x, y,
        z);
}
// fmax and fmaxnm treat NaN in ways of their own; the twin takes the second operand.
inline float32x4_t larger(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline Lanes max(Lanes x, Lanes y) { return each(larger, x, y); }
inline Lanes min(Lanes x, Lanes y) {
    return each([](float32x4_t v, float32x4_t w) { return vbslq_f32(vcltq_f32(v, w), v, w); }, x,
                y);
}
inline Lanes abs(Lanes x) {
    return each([](float32x4_t v) { return vabsq_f32(v); }, x);
}
inline Lanes round_even(Lanes x) {
    return each([](float32x4_t v) { return vrndnq_f32(v); }, x);
}
inline float32x4_t power_of_two(float32x4_t n) {
    const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}
inline Lanes scale_by_power(Lanes x, Lanes n) {
    return each([](float32x4_t v, float32x4_t w) { return vmulq_f32(v, power_of_two(w)); }, x, n);
}

inline float sum(Lanes x) {
    const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float largest(Lanes x) {
    const float32x4_t four = larger(larger(x.a, x.c), larger(x.b, x.d));
    const float32x4_t two = larger(four, vextq_f32(four, four, 2));
    return vgetq_lane_f32(larger(two, vextq_f32(two, two, 1)), 0);
}

inline int16x4_t narrow(float32x4_t x) { return vmovn_s32(vcvtnq_s32_f32(x)); }
inline void store_int8(int8_t* p, Lanes x) {
    vst1_s8(p, vmovn_s16(vcombine_s16(narrow(x.a), narrow(x.b))));
    vst1_s8(p + 8, vmovn_s16(vcombine_s16(narrow(x.c), narrow(x.d))));
}

inline Line load_line(const uint8_t* p) {
    return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}
inline Line low_nibbles(Line x) {
    return each<Line>([](uint8x16_t v) { return vandq_u8(v, vdupq_n_u8(15)); }, x);
}
inline Line high_nibbles(Line x) {
    return each<Line>([](uint8x16_t v) { return vshrq_n_u8(v, 4); }, x);
}
template <int k>
inline float32x4_t byte_as_float(uint8x16_t x) {
    uint32x4_t words = vreinterpretq_u32_u8(x);
    if constexpr (k > 0) words = vshrq_n_u32(words, 8 * k);
    return vcvtq_f32_u32(vandq_u32(words, vdupq_n_u32(255)));
}
template <int k>
inline Lanes byte_as_float(Line x) {
    return each([](uint8x16_t v) { return byte_as_float<k>(v); }, x);
}

inline Lanes low_halves(Line x) {
    return each(
        [](uint8x16_t v) {
            return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(v), 16));
        },
        x);
}
inline Lanes high_halves(Line x) {
    return each(
        [](uint8x16_t v) {
            return vreinterpretq_f32_u32(
                vandq_u32(vreinterpretq_u32_u8(v), vdupq_n_u32(0xFFFF0000u)));
        },
        x);
}
inline float32x4_t round_bf16(float32x4_t x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    const uint32x4_t sign = vandq_u32(bits, vdupq_n_u32(0x80000000u));
    const uint32x4_t exponent = vandq_u32(bits, vdupq_n_u32(0x7F800000));
    const uint32x4_t kept = vbslq_u32(vceqq_f32(x, x), rounded, quiet);
    const uint32x4_t flushed = vbslq_u32(vceqq_u32(exponent, vdupq_n_u32(0)), sign, kept);
    return vreinterpretq_f32_u32(vandq_u32(flushed, vdupq_n_u32(0xFFFF0000u)));
}
inline Lanes round_bf16(Lanes x) {
    return each([](float32x4_t v) { return round_bf16(v); }, x);
}

// Makes the compiler take the line for changed.
inline void forget(Line& x) { asm volatile("" : "+w"(x.a), "+w"(x.b), "+w"(x.c), "+w"(x.d)); }

inline IntLanes splat_int(int32_t x) {
    const int32x4_t four = vdupq_n_s32(x);
    return {four, four, four, four};
}

}  // namespace
}  // namespace edge

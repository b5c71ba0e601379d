// Sixteen float or int32 lanes in portable C++; the twin that every other ISA must equal.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace edge {
namespace {

constexpr int tile_rows = 4;
constexpr int query_rows = 4;
constexpr int dot_rows = 2;
constexpr int dot_cols = 2;
constexpr int burst_chains = 4;

struct Lanes {
    float v[16];
};

struct IntLanes {
    int32_t v[16];
};

struct Line {
    uint8_t v[line_bytes];
};

template <typename Function>
inline Lanes each(Function function) {
    Lanes out;
    for (int i = 0; i < 16; ++i) out.v[i] = function(i);
    return out;
}

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float widen_f16(uint16_t half) {
    const uint32_t sign = uint32_t{half & 0x8000u} << 16;
    const uint32_t rest = half & 0x7FFFu;
    if (rest >= 0x7C00u) return float_of(sign | 0x7F800000u | (rest & 0x3FFu) << 13);
    if (rest >= 0x0400u) return float_of(sign | ((rest << 13) + (112u << 23)));
    const float magnitude = static_cast<float>(rest) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
}

inline Lanes zero() {
    return each([](int) { return 0.0f; });
}
inline Lanes splat(float x) {
    return each([x](int) { return x; });
}
inline Lanes splat_whole(int32_t x) { return splat(static_cast<float>(x)); }
inline Lanes load(const float* p) {
    return each([p](int i) { return p[i]; });
}
inline Lanes load_first(const float* p, int n) {
    return each([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline Lanes load_f16(const uint16_t* p) {
    return each([p](int i) { return widen_f16(p[i]); });
}
inline Lanes load_f16_first(const uint16_t* p, int n) {
    return each([=](int i) { return i < n ? widen_f16(p[i]) : 0.0f; });
}
inline Lanes load_bf16(const uint16_t* p) {
    return each([p](int i) { return float_of(uint32_t{p[i]} << 16); });
}
inline Lanes load_bf16_first(const uint16_t* p, int n) {
    return each([=](int i) { return i < n ? float_of(uint32_t{p[i]} << 16) : 0.0f; });
}
inline Lanes load_int8(const int8_t* p) {
    return each([p](int i) { return static_cast<float>(p[i]); });
}
inline void store(float* p, Lanes a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store_first(float* p, Lanes a, int n) {
    std::memcpy(p, a.v, static_cast<size_t>(n) * 4);
}

inline Lanes add(Lanes a, Lanes b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes sub(Lanes a, Lanes b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Lanes mul(Lanes a, Lanes b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes div(Lanes a, Lanes b) {
    return each([&](int i) { return a.v[i] / b.v[i]; });
}
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
    return each([&](int i) { return std::fmaf(a.v[i], b.v[i], c.v[i]); });
}
// Like maxps and minps: the second operand where one is NaN.
inline Lanes max(Lanes a, Lanes b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes min(Lanes a, Lanes b) {
    return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes abs(Lanes a) {
    return each([&](int i) { return std::fabs(a.v[i]); });
}
inline Lanes round_even(Lanes a) {
    return each([&](int i) { return std::nearbyintf(a.v[i]); });
}
// a * 2^n for whole n from -126 to 127.
inline Lanes scale_by_power(Lanes a, Lanes n) {
    return each([&](int i) {
        const float power = std::isnan(n.v[i]) ? 0.0f : n.v[i];  // `a` is NaN then, too
        const auto exponent = static_cast<uint32_t>(static_cast<int32_t>(power) + 127);
        return a.v[i] * float_of(exponent << 23);
    });
}

template <typename Combine>
inline float fold(Lanes a, Combine combine) {
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) a.v[i] = combine(a.v[i], a.v[i + width]);
    return a.v[0];
}

inline float sum(Lanes a) {
    return fold(a, [](float x, float y) { return x + y; });
}
inline float largest(Lanes a) {
    return fold(a, [](float x, float y) { return x > y ? x : y; });
}

// Whole numbers from -127 to 127.
inline void store_int8(int8_t* p, Lanes a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}

inline Line load_line(const uint8_t* p) {
    Line line;
    std::memcpy(line.v, p, sizeof line.v);
    return line;
}
inline Line low_nibbles(Line a) {
    for (uint8_t& byte : a.v) byte &= 15;
    return a;
}
inline Line high_nibbles(Line a) {
    for (uint8_t& byte : a.v) byte >>= 4;
    return a;
}
// The unsigned byte `k` of each lane's four, as float.
template <int k>
inline Lanes byte_as_float(Line a) {
    return each([&](int i) { return static_cast<float>(a.v[4 * i + k]); });
}

// The bfloat16 in the low or high half of each lane's four bytes.
inline Lanes low_halves(Line a) {
    return each([&](int i) {
        return float_of(uint32_t{a.v[4 * i]} << 16 | uint32_t{a.v[4 * i + 1]} << 24);
    });
}
inline Lanes high_halves(Line a) {
    return each([&](int i) {
        return float_of(uint32_t{a.v[4 * i + 2]} << 16 | uint32_t{a.v[4 * i + 3]} << 24);
    });
}
// To the nearest bfloat16, ties to even; what is below 2^-126 becomes zero.
inline Lanes round_bf16(Lanes a) {
    return each([&](int i) {
        uint32_t bits;
        std::memcpy(&bits, &a.v[i], sizeof bits);
        if (std::isnan(a.v[i])) return float_of((bits | 0x400000u) & 0xFFFF0000u);
        if ((bits & 0x7F800000u) == 0) return float_of(bits & 0x80000000u);
        return float_of((bits + 0x7FFFu + (bits >> 16 & 1u)) & 0xFFFF0000u);
    });
}

// Makes the compiler take the line for changed.
inline void forget(Line& a) { asm volatile("" : "+m"(a)); }

inline IntLanes splat_int(int32_t x) {
    IntLanes out;
    for (int32_t& lane : out.v) lane = x;
    return out;
}
inline Lanes to_float(IntLanes a) {
    return each([&](int i) { return static_cast<float>(a.v[i]); });
}

// Start of an accumulation of unsigned weights: minus zero point times the sum of activations.
template <int bits>
inline IntLanes start(int32_t folded) {
    return splat_int(folded);
}

// acc[lane] += sum over four k of weight[lane][k] * activation[k].
template <int bits>
inline IntLanes dot4(IntLanes acc, Line w, const int8_t* activations) {
    for (int i = 0; i < 16; ++i)
        for (int k = 0; k < 4; ++k) acc.v[i] += int32_t{w.v[4 * i + k]} * activations[k];
    return acc;
}

}  // namespace
}  // namespace edge

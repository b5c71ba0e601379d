// Exact conversions between the 16-bit floats of model files and float, on any CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace edge {

inline uint16_t load_u16(const std::byte* stored) {
    uint16_t value;
    std::memcpy(&value, stored, sizeof value);
    return value;
}

inline void store_u16(std::byte* out, uint16_t value) { std::memcpy(out, &value, sizeof value); }

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float float_from_bf16(uint16_t half) { return float_from_bits(uint32_t{half} << 16); }

inline float float_from_f16(uint16_t half) {
    const uint32_t sign = uint32_t{half & 0x8000u} << 16;
    const uint32_t magnitude = half & 0x7FFFu;
    if (magnitude >= 0x7C00u)
        return float_from_bits(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
    if (magnitude >= 0x0400u) return float_from_bits(sign | ((magnitude << 13) + (112u << 23)));
    // Subnormal: the value is magnitude * 2^-24, which a float holds exactly.
    return float_from_bits(sign | bits_of(static_cast<float>(magnitude) * 0x1p-24f));
}

// Round to nearest, ties to even, as hardware does.
inline uint16_t f16_from_float(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
    if (magnitude >= 0x477FF000u)
        return static_cast<uint16_t>(sign | 0x7C00u);  // rounds past 65504
    if (magnitude < 0x38800000u) {
        // Subnormal half: adding 0.5 aligns the bits so that the FPU does the rounding.
        const float shifted = float_from_bits(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (bits_of(shifted) - 0x3F000000u));
    }
    const uint32_t odd = magnitude >> 13 & 1u;
    return static_cast<uint16_t>(sign | (magnitude - (112u << 23) + 0xFFFu + odd) >> 13);
}

// Without branches, so that a compiler can do several at once.
inline uint16_t bf16_from_float(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t quiet = bits | 0x400000u;
    const uint32_t rounded = bits + 0x7FFFu + (bits >> 16 & 1u);
    return static_cast<uint16_t>(((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded) >> 16);
}

}  // namespace edge

#include "group_codes.h"

#include "numbers.h"

namespace edge {
namespace {

int byte_at(const std::byte* stored, int index) { return static_cast<int>(stored[index]); }
uint8_t signed_weight(int value) { return static_cast<uint8_t>(value + 128); }
uint16_t negated(uint16_t half) { return half ^ 0x8000u; }

// The first 16 weights of 32 are low nibbles, the others high ones.
int nibble(const std::byte* stored, int index) {
    const int pair = byte_at(stored, index % 16);
    return index < 16 ? pair & 15 : pair >> 4;
}

void unpack_q8_0(const std::byte* stored, UnpackedBlock& block) {
    block.scales[0] = load_u16(stored);
    for (int i = 0; i < 32; ++i)
        block.weights[i] = signed_weight(static_cast<int8_t>(byte_at(stored, 2 + i)));
}

void unpack_q4_0(const std::byte* stored, UnpackedBlock& block) {
    block.scales[0] = load_u16(stored);
    for (int i = 0; i < 32; ++i) block.weights[i] = static_cast<uint8_t>(nibble(stored + 2, i));
}

void unpack_q4_1(const std::byte* stored, UnpackedBlock& block) {
    block.scales[0] = load_u16(stored);
    block.minima[0] = negated(load_u16(stored + 2));
    for (int i = 0; i < 32; ++i) block.weights[i] = static_cast<uint8_t>(nibble(stored + 4, i));
}

// Four low bits as in q4_0, the fifth of weight i is bit i of a 32-bit number before them.
int five_bits(const std::byte* high, const std::byte* low, int index) {
    return nibble(low, index) | (byte_at(high, index / 8) >> index % 8 & 1) << 4;
}

void unpack_q5_0(const std::byte* stored, UnpackedBlock& block) {
    block.scales[0] = load_u16(stored);
    for (int i = 0; i < 32; ++i)
        block.weights[i] = signed_weight(five_bits(stored + 2, stored + 6, i) - 16);
}

void unpack_q5_1(const std::byte* stored, UnpackedBlock& block) {
    block.scales[0] = load_u16(stored);
    block.minima[0] = negated(load_u16(stored + 2));
    for (int i = 0; i < 32; ++i)
        block.weights[i] = signed_weight(five_bits(stored + 4, stored + 8, i));
}

// q4_K and q5_K: eight scales and eight minima of 6 bits in 12 bytes. The first four of each are
// whole, the others have their upper two bits above those.
void unpack_k_scales(const std::byte* stored, UnpackedBlock& block) {
    block.scales[0] = load_u16(stored);
    block.minima[0] = load_u16(stored + 2);
    const std::byte* packed = stored + 4;
    for (int g = 0; g < 4; ++g) {
        const int scale = byte_at(packed, g);
        const int minimum = byte_at(packed, g + 4);
        const int both = byte_at(packed, g + 8);
        block.fine_scales[g] = static_cast<int8_t>(scale & 63);
        block.fine_minima[g] = static_cast<int8_t>(minimum & 63);
        block.fine_scales[g + 4] = static_cast<int8_t>((both & 15) | scale >> 6 << 4);
        block.fine_minima[g + 4] = static_cast<int8_t>(both >> 4 | minimum >> 6 << 4);
    }
}

// Each 32 bytes hold 64 weights: the low nibbles first, then the high ones.
int k_nibble(const std::byte* stored, int index) {
    const int pair = byte_at(stored, index / 64 * 32 + index % 32);
    return index % 64 < 32 ? pair & 15 : pair >> 4;
}

void unpack_q4_k(const std::byte* stored, UnpackedBlock& block) {
    unpack_k_scales(stored, block);
    for (int i = 0; i < 256; ++i) block.weights[i] = static_cast<uint8_t>(k_nibble(stored + 16, i));
}

// Bit g of the byte i % 32 before the nibbles is the fifth bit of weight i of group g.
void unpack_q5_k(const std::byte* stored, UnpackedBlock& block) {
    unpack_k_scales(stored, block);
    for (int i = 0; i < 256; ++i) {
        const int fifth = byte_at(stored, 16 + i % 32) >> i / 32 & 1;
        block.weights[i] = signed_weight(k_nibble(stored + 48, i) | fifth << 4);
    }
}

// Halves of 128 weights, each in four runs of 32: the runs share 64 bytes of low nibbles and 32
// bytes of upper bits.
void unpack_q6_k(const std::byte* stored, UnpackedBlock& block) {
    for (int i = 0; i < 256; ++i) {
        const int half = i / 128, run = i % 128 / 32, at = i % 32;
        const int low = byte_at(stored, half * 64 + run % 2 * 32 + at);
        const int high = byte_at(stored, 128 + half * 32 + at) >> run * 2 & 3;
        const int four = run < 2 ? low & 15 : low >> 4;
        block.weights[i] = signed_weight((four | high << 4) - 32);
    }
    for (int g = 0; g < 16; ++g)
        block.fine_scales[g] = static_cast<int8_t>(byte_at(stored, 192 + g));
    block.scales[0] = load_u16(stored + 208);
}

void unpack_int8(const GroupCode& code, const std::byte* row, int64_t index, UnpackedBlock& block) {
    const int64_t first = index * code.block;
    const std::byte* stored = row + first / code.group * (2 + code.group);
    block.scales[0] = load_u16(stored);
    stored += 2 + first % code.group;
    for (int i = 0; i < code.block; ++i)
        block.weights[i] = signed_weight(static_cast<int8_t>(byte_at(stored, i)));
}

void unpack_int4(const GroupCode& code, const std::byte* row, int64_t index, UnpackedBlock& block) {
    const int64_t first = index * code.block;
    const int num_halves = code.has_minima ? 2 : 1;
    const std::byte* stored = row + first / code.group * (2 * num_halves + code.group / 2);
    block.scales[0] = load_u16(stored);
    if (code.has_minima) block.minima[0] = load_u16(stored + 2);
    stored += 2 * num_halves;
    for (int i = 0; i < code.block; ++i)
        block.weights[i] = static_cast<uint8_t>(nibble(stored + i / 32 * 16, i % 32));
}

// ggml's blocks follow each other.
template <void (*unpack)(const std::byte* stored, UnpackedBlock& block)>
void in_row(const GroupCode& code, const std::byte* row, int64_t index, UnpackedBlock& block) {
    unpack(row + index * code.block_bytes, block);
}

constexpr GroupCode codes[] = {
    {TensorType::q8_0, 8, 32, false, false, in_row<unpack_q8_0>},
    {TensorType::q4_0, 4, 32, false, false, in_row<unpack_q4_0>},
    {TensorType::q4_1, 4, 32, false, true, in_row<unpack_q4_1>},
    {TensorType::q5_0, 8, 32, false, false, in_row<unpack_q5_0>},
    {TensorType::q5_1, 8, 32, false, true, in_row<unpack_q5_1>},
    {TensorType::q4_k, 4, 32, true, true, in_row<unpack_q4_k>},
    {TensorType::q5_k, 8, 32, true, true, in_row<unpack_q5_k>},
    {TensorType::q6_k, 8, 16, true, false, in_row<unpack_q6_k>},
};

GroupCode own_code(const StoredType& type) {
    const auto group = static_cast<int64_t>(type.group_size);
    const int block = group <= max_block ? static_cast<int>(group) : 32;
    if (type.id == TensorType::int8) return {type.id, 8, group, false, false, unpack_int8, block};
    return {type.id, 4, group, false, type.has_minima, unpack_int4, block};
}

}  // namespace

std::optional<GroupCode> find_group_code(const StoredType& type) {
    if (is_own(type.id)) return own_code(type);
    for (GroupCode code : codes)
        if (code.type == type.id) {
            code.block = static_cast<int>(layout_of(code.type).group_size);
            code.block_bytes = static_cast<int>(layout_of(code.type).group_bytes);
            return code;
        }
    return std::nullopt;
}

void dequantize_block(const GroupCode& code, const std::byte* row, int64_t index, float* out) {
    UnpackedBlock block;
    code.unpack(code, row, index, block);
    for (int i = 0; i < code.block; ++i) {
        const int64_t g = i / code.group;
        float scale = float_from_f16(block.scales[code.is_fine ? 0 : g]);
        if (code.is_fine) scale *= static_cast<float>(block.fine_scales[g]);
        out[i] = scale * static_cast<float>(block.weights[i] - code.zero_point());
        if (!code.has_minima) continue;
        float minimum = float_from_f16(block.minima[code.is_fine ? 0 : g]);
        if (code.is_fine) minimum *= static_cast<float>(block.fine_minima[g]);
        out[i] -= minimum;
    }
}

}  // namespace edge

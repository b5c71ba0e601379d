#include "quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "group_codes.h"
#include "numbers.h"
#include "own_types.h"

namespace edge {
namespace {

constexpr int group = 32;

// A scale so small that its inverse overflows stores its group as zeros, like a scale of zero.
float inverse_of(float scale) {
    const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    return std::isfinite(inverse) ? inverse : 0.0f;
}

// 32 values share d = max|x| / 127; each is round(x / d), halves away from zero.
void quantize_q8_0(const float* values, std::byte* out) {
    float largest = 0.0f;
    for (int i = 0; i < group; ++i) largest = std::max(largest, std::fabs(values[i]));
    const float scale = largest / 127.0f;
    const float inverse = inverse_of(scale);
    store_u16(out, f16_from_float(scale));
    for (int i = 0; i < group; ++i)
        out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::roundf(values[i] * inverse)));
}

// 32 values share d = x_m / -8 with x_m the value of largest magnitude, so x_m itself is exact.
void quantize_q4_0(const float* values, std::byte* out) {
    float extreme = 0.0f;
    for (int i = 0; i < group; ++i)
        if (std::fabs(values[i]) > std::fabs(extreme)) extreme = values[i];
    const float scale = extreme / -8.0f;
    const float inverse = inverse_of(scale);
    store_u16(out, f16_from_float(scale));
    const auto nibble = [&](float value) {
        return static_cast<uint8_t>(std::min(15, static_cast<int>(value * inverse + 8.5f)));
    };
    for (int i = 0; i < group / 2; ++i)
        out[2 + i] = static_cast<std::byte>(nibble(values[i]) | nibble(values[i + group / 2]) << 4);
}

void dequantize_blocks(const StoredType& type, const std::byte* row, int64_t cols, float* out) {
    const std::optional<GroupCode> code = find_group_code(type);
    if (!code) throw std::invalid_argument("no reader for this tensor type");
    for (int64_t b = 0; b < cols / code->block; ++b)
        dequantize_block(*code, row, b, out + b * code->block);
}

}  // namespace

bool can_quantize(TensorType type) {
    switch (type) {
        case TensorType::f32:
        case TensorType::f16:
        case TensorType::bf16:
        case TensorType::int8:
        case TensorType::int4:
        case TensorType::q8_0:
        case TensorType::q4_0: return true;
        default: return false;
    }
}

bool can_dequantize(const StoredType& type) {
    return can_quantize(type.id) || find_group_code(type).has_value();
}

StoredType readable_type(const std::string& name, int64_t cols, int64_t group_size,
                         bool has_minima) {
    const TypeLayout* layout = find_type(name);
    if (layout == nullptr || !can_dequantize(layout->type))
        throw std::invalid_argument("'" + name + "' is no type that this can be done with");
    if (cols < 1 || group_size < 0) throw std::invalid_argument("cols must be positive");
    const auto count = static_cast<uint64_t>(cols);
    StoredType type = layout->type;
    if (is_own(type.id)) {
        const uint64_t size = default_group_size(type.id, count);
        type = {type.id, group_size == 0 ? size : static_cast<uint64_t>(group_size), has_minima};
    } else if (group_size != 0 || has_minima) {
        throw std::invalid_argument("'" + name + "' has a group size of its own and no choices");
    }
    if (!row_bytes(type, count) || (is_own(type.id) && !is_sound(type, count)))
        throw std::invalid_argument("the type's group size does not divide the columns");
    return type;
}

StoredType writable_type(const std::string& name, int64_t cols, int64_t group_size,
                         bool has_minima) {
    const StoredType type = readable_type(name, cols, group_size, has_minima);
    if (!can_quantize(type.id))
        throw std::invalid_argument("'" + name + "' is no type that this can be done with");
    return type;
}

void quantize_row(const StoredType& type, const float* values, int64_t cols, std::byte* out) {
    switch (type.id) {
        case TensorType::f32: std::memcpy(out, values, static_cast<size_t>(cols) * 4); return;
        case TensorType::f16:
            for (int64_t i = 0; i < cols; ++i) store_u16(out + 2 * i, f16_from_float(values[i]));
            return;
        case TensorType::bf16:
            for (int64_t i = 0; i < cols; ++i) store_u16(out + 2 * i, bf16_from_float(values[i]));
            return;
        case TensorType::q8_0:
            for (int64_t g = 0; g < cols / group; ++g)
                quantize_q8_0(values + g * group, out + g * 34);
            return;
        case TensorType::q4_0:
            for (int64_t g = 0; g < cols / group; ++g)
                quantize_q4_0(values + g * group, out + g * 18);
            return;
        case TensorType::int8:
        case TensorType::int4: return quantize_own_row(type, values, cols, out);
        default: throw std::invalid_argument("no quantizer for this tensor type");
    }
}

void dequantize_row(const StoredType& type, const std::byte* stored, int64_t cols, float* out) {
    switch (type.id) {
        case TensorType::f32: std::memcpy(out, stored, static_cast<size_t>(cols) * 4); return;
        case TensorType::f16:
            for (int64_t i = 0; i < cols; ++i) out[i] = float_from_f16(load_u16(stored + 2 * i));
            return;
        case TensorType::bf16:
            for (int64_t i = 0; i < cols; ++i) out[i] = float_from_bf16(load_u16(stored + 2 * i));
            return;
        default: dequantize_blocks(type, stored, cols, out);
    }
}

}  // namespace edge

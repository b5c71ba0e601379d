// 16-bit floats, all of them, both ways, and the rows that are stored with them.
#include "numbers.h"

#include <limits>

#include "check.h"
#include "quantize.h"

using namespace edge;
using namespace edge::test;

namespace {

// The value of a half, from the definition.
double half_value(uint32_t half, int exponent_bits) {
    const int fraction_bits = 15 - exponent_bits;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = static_cast<int>(half >> fraction_bits & ((1u << exponent_bits) - 1));
    const double fraction = half & ((1u << fraction_bits) - 1);
    const double sign = half & 0x8000 ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1)
        return fraction == 0 ? sign * HUGE_VAL : std::numeric_limits<double>::quiet_NaN();
    const double significand = (exponent == 0 ? 0.0 : std::ldexp(1.0, fraction_bits)) + fraction;
    return sign * std::ldexp(significand, std::max(exponent, 1) - bias - fraction_bits);
}

struct Format {
    const char* name;
    int exponent_bits;
    float (*widen)(uint16_t);
    uint16_t (*narrow)(float);
};

void check_every_half(const Format& format) {
    for (uint32_t half = 0; half < 65'536; ++half) {
        current_case = std::string(format.name) + " " + std::to_string(half);
        const auto bits = static_cast<uint16_t>(half);
        const float value = format.widen(bits);
        const double wanted = half_value(half, format.exponent_bits);
        if (std::isnan(wanted)) {
            check(std::isnan(value), "a NaN is read as a number");
            check(std::isnan(format.widen(format.narrow(value))), "a NaN is stored as a number");
            continue;
        }
        check(static_cast<double>(value) == wanted, "read as another number");
        check(format.narrow(value) == bits, "stored as another half");
    }
}

// Between two neighbours the middle goes to the even one, anything else to the nearer one.
void check_rounding(const Format& format, uint32_t low, float high_value) {
    current_case = std::string(format.name) + " above " + std::to_string(low);
    const float low_value = format.widen(static_cast<uint16_t>(low));
    const auto middle = static_cast<float>((double{low_value} + double{high_value}) / 2);
    const uint32_t high = low + 1;
    for (const uint32_t sign : {0u, 0x8000u}) {
        const float direction = sign == 0 ? 1.0f : -1.0f;
        const auto narrowed = [&](float value) { return format.narrow(direction * value); };
        check(narrowed(middle) == (sign | (low % 2 == 0 ? low : high)), "a tie is not even");
        check(narrowed(std::nextafterf(middle, 0.0f)) == (sign | low), "rounded up too soon");
        check(narrowed(std::nextafterf(middle, HUGE_VALF)) == (sign | high), "rounded down");
    }
}

void check_format(const Format& format) {
    check_every_half(format);
    const uint32_t infinity = ((1u << format.exponent_bits) - 1) << (15 - format.exponent_bits);
    for (uint32_t low = 0; low + 1 < infinity; ++low)
        check_rounding(format, low, format.widen(static_cast<uint16_t>(low + 1)));
}

void check_f16_overflow() {
    current_case = "f16 beyond 65504";
    check_rounding({"f16", 5, float_from_f16, f16_from_float}, 0x7BFF, 65536.0f);
    check(f16_from_float(3.4e38f) == 0x7C00 && f16_from_float(-3.4e38f) == 0xFC00, "no infinity");
}

void check_zero_rows(TensorType type) {
    const std::vector<float> zeros(64, 0.0f);
    std::vector<std::byte> stored(*row_bytes(layout_of(type), 64));
    std::vector<float> read(64, 1.0f);
    quantize_row(type, zeros.data(), 64, stored.data());
    dequantize_row(type, stored.data(), 64, read.data());
    for (const float value : read) check(value == 0.0f, "zeros are not stored as zeros");
}

// Groups do not touch each other, and no value moves by more than the format's step allows.
void check_stored_rows(TensorType type, double steps_per_side) {
    current_case = layout_of(type).name;
    const auto values = random_floats(6400, 61);
    std::vector<std::byte> stored(*row_bytes(layout_of(type), 6400));
    std::vector<float> read(6400);
    quantize_row(type, values.data(), 6400, stored.data());
    dequantize_row(type, stored.data(), 6400, read.data());
    for (size_t group = 0; group < 6400; group += 32) {
        float largest = 0.0f;
        for (size_t i = group; i < group + 32; ++i)
            largest = std::max(largest, std::fabs(values[i]));
        for (size_t i = group; i < group + 32; ++i)
            check(near(read[i], values[i], largest / steps_per_side), "moved too far");
    }
    check_zero_rows(type);
}

}  // namespace

int main() {
    check_format({"f16", 5, float_from_f16, f16_from_float});
    check_format({"bf16", 8, float_from_bf16, bf16_from_float});
    check_f16_overflow();
    check_stored_rows(TensorType::f32, 1e30);
    check_stored_rows(TensorType::f16, 2000.0);
    check_stored_rows(TensorType::bf16, 250.0);
    check_stored_rows(TensorType::q8_0, 2 * 127 * 0.9);
    check_stored_rows(TensorType::q4_0, 8 * 0.99);
    return verdict();
}

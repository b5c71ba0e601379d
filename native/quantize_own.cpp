// The quantizers of our own types. All sums are float64, one after the other, so that a
// reference written elsewhere can give the same bits.
#include <algorithm>
#include <cmath>

#include "numbers.h"
#include "own_types.h"

namespace edge {
namespace {

constexpr int num_tries = 9;
constexpr int max_count = 128;  // of int4 weights in a group

// As stored; `out` gets the bits.
double store_half(std::byte* out, double value) {
    const uint16_t half = f16_from_float(static_cast<float>(value));
    store_u16(out, half);
    return float_from_f16(half);
}

// The nearest whole number from `low` to `high`, ties to even; NaN becomes `low`.
double nearest(double value, double low, double high) {
    const double raised = value >= low ? value : low;
    const double clamped = raised <= high ? raised : high;
    constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52: no bits are left for a fraction
    return clamped + shift - shift;
}

int nearest_multiple(double value, double scale, double low, double high) {
    return static_cast<int>(scale == 0.0 ? 0.0 : nearest(value / scale, low, high));
}

// A line scale * stored + offset through a group's values, and how much of their squares it
// explains.
struct Fit {
    double scale = 0.0;
    double offset = 0.0;
    double explained = -1.0;
};

void keep_better(Fit& best, const Fit& other) {
    if (other.explained > best.explained) best = other;
}

// Least squares for the whole numbers that `inverse` gives.
Fit fit_scale(const float* x, int64_t count, double inverse) {
    double q[max_count];
    for (int64_t i = 0; i < count; ++i) q[i] = nearest(x[i] * inverse, -8.0, 7.0);
    double dot = 0.0, squares = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        dot += x[i] * q[i];
        squares += q[i] * q[i];
    }
    return {dot / squares, 0.0, dot * dot / squares};
}

Fit fit_line(const float* x, int64_t count, double low, double step) {
    double q[max_count];
    for (int64_t i = 0; i < count; ++i) q[i] = nearest((x[i] - low) / step, 0.0, 15.0);
    double sum_x = 0.0, sum_q = 0.0, dot = 0.0, squares = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        sum_x += x[i];
        sum_q += q[i];
        dot += x[i] * q[i];
        squares += q[i] * q[i];
    }
    const auto n = static_cast<double>(count);
    const double scale = (n * dot - sum_x * sum_q) / (n * squares - sum_q * sum_q);
    const double offset = (sum_x - scale * sum_q) / n;
    return {scale, offset, scale * dot + offset * sum_x};
}

// The value of largest magnitude becomes -6 to -9.2, where -8 is the last whole number.
Fit best_scale(const float* x, int64_t count) {
    double extreme = 0.0;
    for (int64_t i = 0; i < count; ++i)
        if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    Fit best;
    for (int i = 0; i < num_tries && extreme != 0.0; ++i)
        keep_better(best, fit_scale(x, count, (-6.0 - 0.4 * i) / extreme));
    return best;
}

// The values' range becomes 15 to 19 wide around its middle, where 0 to 15 exist.
Fit best_line(const float* x, int64_t count) {
    const double low = *std::min_element(x, x + count), high = *std::max_element(x, x + count);
    Fit best{0.0, low, -1.0};
    for (int i = 0; i < num_tries && low < high; ++i) {
        const double step = (high - low) / (15.0 + 0.5 * i);
        keep_better(best, fit_line(x, count, (high + low) / 2 - 7.5 * step, step));
    }
    return best;
}

std::byte* quantize_int8(const float* x, int64_t count, std::byte* out) {
    float largest = 0.0f;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
    const double scale = store_half(out, largest / 127.0);
    for (int64_t i = 0; i < count; ++i)
        out[2 + i] = static_cast<std::byte>(nearest_multiple(x[i], scale, -127, 127));
    return out + 2 + count;
}

std::byte* quantize_int4(const float* x, int64_t count, bool has_minima, std::byte* out) {
    const Fit fit = has_minima ? best_line(x, count) : best_scale(x, count);
    const double scale = store_half(out, fit.scale);
    out += 2;
    double minimum = 0.0;
    if (has_minima) {
        minimum = store_half(out, 0.0 - fit.offset);
        out += 2;
    }
    const auto nibble = [&](int64_t i) {
        return has_minima ? nearest_multiple(x[i] + minimum, scale, 0, 15)
                          : nearest_multiple(x[i], scale, -8, 7) + 8;
    };
    for (int64_t first = 0; first < count; first += 32)
        for (int64_t i = first; i < first + 16; ++i)
            *out++ = static_cast<std::byte>(nibble(i) | nibble(i + 16) << 4);
    return out;
}

}  // namespace

void quantize_own_row(const StoredType& type, const float* values, int64_t cols, std::byte* out) {
    const auto group = static_cast<int64_t>(type.group_size);
    for (int64_t first = 0; first < cols; first += group)
        out = type.id == TensorType::int8
                  ? quantize_int8(values + first, group, out)
                  : quantize_int4(values + first, group, type.has_minima, out);
}

}  // namespace edge

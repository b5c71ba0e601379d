// The quantizers of our own types. All sums are float64, one after the other, so that a
// reference written elsewhere can give the same bits.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "compensate.h"
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

// A group's weights and how much each one's squared error counts.
struct Group {
    const float* x;
    const double* importance;
    int64_t count;
};

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
Fit fit_scale(const Group& group, double inverse) {
    double dot = 0.0, squares = 0.0;
    for (int64_t i = 0; i < group.count; ++i) {
        const double q = nearest(group.x[i] * inverse, -8.0, 7.0);
        const double weighted = group.importance[i] * q;
        dot += group.x[i] * weighted;
        squares += q * weighted;
    }
    return {dot / squares, 0.0, dot * dot / squares};
}

Fit fit_line(const Group& group, double low, double step) {
    double total = 0.0, sum_x = 0.0, sum_q = 0.0, dot = 0.0, squares = 0.0;
    for (int64_t i = 0; i < group.count; ++i) {
        const double x = group.x[i];
        const double q = nearest((x - low) / step, 0.0, 15.0);
        const double weight = group.importance[i];
        total += weight;
        sum_x += weight * x;
        sum_q += weight * q;
        dot += weight * x * q;
        squares += weight * q * q;
    }
    const double scale = (total * dot - sum_x * sum_q) / (total * squares - sum_q * sum_q);
    const double offset = (sum_x - scale * sum_q) / total;
    return {scale, offset, scale * dot + offset * sum_x};
}

// The value of largest magnitude becomes -6 to -9.2, where -8 is the last whole number.
Fit best_scale(const Group& group) {
    double extreme = 0.0;
    for (int64_t i = 0; i < group.count; ++i)
        if (std::fabs(group.x[i]) > std::fabs(extreme)) extreme = group.x[i];
    Fit best;
    for (int i = 0; i < num_tries && extreme != 0.0; ++i)
        keep_better(best, fit_scale(group, (-6.0 - 0.4 * i) / extreme));
    return best;
}

// The values' range becomes 15 to 19 wide around its middle, where 0 to 15 exist.
Fit best_line(const Group& group) {
    const auto [least, most] = std::minmax_element(group.x, group.x + group.count);
    const double low = *least, high = *most;
    Fit best{0.0, low, -1.0};
    for (int i = 0; i < num_tries && low < high; ++i) {
        const double step = (high - low) / (15.0 + 0.5 * i);
        keep_better(best, fit_line(group, (high + low) / 2 - 7.5 * step, step));
    }
    return best;
}

// A group's numbers as stored: a weight is scale * (code - zero) - minimum.
struct Code {
    double scale;
    double minimum;
    double low, high;  // whole numbers
    int zero;

    int code(double x) const { return nearest_multiple(x + minimum, scale, low, high) + zero; }
    double value(int code) const { return scale * (code - zero) - minimum; }
};

Code int8_code(double scale) { return {scale, 0.0, -127.0, 127.0, 0}; }

// Chooses a group's numbers and writes them; `out` moves past them.
Code choose(const StoredType& type, const Group& group, std::byte*& out) {
    if (type.id == TensorType::int8) {
        float largest = 0.0f;
        for (int64_t i = 0; i < group.count; ++i)
            largest = std::max(largest, std::fabs(group.x[i]));
        const double scale = store_half(out, largest / 127.0);
        out += 2;
        return int8_code(scale);
    }
    const Fit fit = type.has_minima ? best_line(group) : best_scale(group);
    const double scale = store_half(out, fit.scale);
    out += 2;
    if (!type.has_minima) return {scale, 0.0, -8.0, 7.0, 8};
    const double minimum = store_half(out, 0.0 - fit.offset);
    out += 2;
    return {scale, minimum, 0.0, 15.0, 0};
}

void write_codes(const StoredType& type, const uint8_t* codes, int64_t count, std::byte*& out) {
    if (type.id == TensorType::int8) {
        for (int64_t i = 0; i < count; ++i) *out++ = static_cast<std::byte>(codes[i]);
        return;
    }
    for (int64_t first = 0; first < count; first += 32)
        for (int64_t i = first; i < first + 16; ++i)
            *out++ = static_cast<std::byte>(codes[i] | codes[i + 16] << 4);
}

struct Columns {
    int64_t first;
    int64_t count;
};

void compensate(const StoredType& type, const Code& code, const Compensation& factor,
                const Columns& columns, float* values, std::byte*& out, float* errors) {
    std::vector<uint8_t> codes(static_cast<size_t>(columns.count));
    for (int64_t i = 0; i < columns.count; ++i) {
        const int64_t col = columns.first + i;
        const float* line = factor.values + col * factor.cols;
        const int chosen = code.code(values[col]);
        codes[static_cast<size_t>(i)] = static_cast<uint8_t>(chosen);
        const float error = (values[col] - static_cast<float>(code.value(chosen))) / line[col];
        errors[col] = error;
        for (int64_t k = col + 1; k < factor.cols; ++k) values[k] -= error * line[k];
    }
    write_codes(type, codes.data(), columns.count, out);
}

}  // namespace

void quantize_own_row(const StoredType& type, const float* values, int64_t cols, std::byte* out) {
    const auto group_size = static_cast<int64_t>(type.group_size);
    static const std::vector<double> equal(max_count, 1.0);  // int8 looks at none
    std::vector<uint8_t> codes(static_cast<size_t>(group_size));
    for (const float* x = values; x < values + cols; x += group_size) {
        const Code code = choose(type, {x, equal.data(), group_size}, out);
        for (int64_t i = 0; i < group_size; ++i)
            codes[static_cast<size_t>(i)] = static_cast<uint8_t>(code.code(x[i]));
        write_codes(type, codes.data(), group_size, out);
    }
}

void quantize_compensated(const StoredType& type, const Compensation& factor, float* values,
                          std::byte* out, float* errors) {
    const auto group_size = static_cast<int64_t>(type.group_size);
    for (int64_t first = 0; first < factor.cols; first += group_size) {
        const Group group{values + first, factor.importance.data() + first, group_size};
        const Code code = choose(type, group, out);
        compensate(type, code, factor, {first, group_size}, values, out, errors);
    }
}

void quantize_compensated(float scale, const Compensation& factor, float* values, std::byte* out,
                          float* errors) {
    const StoredType type(TensorType::int8, static_cast<uint64_t>(factor.cols), false);
    compensate(type, int8_code(scale), factor, {0, factor.cols}, values, out, errors);
}

Compensation::Compensation(const float* factor, int64_t num_cols) : values(factor), cols(num_cols) {
    for (int64_t i = 0; i < cols; ++i) {
        const double diagonal = factor[i * cols + i];
        if (!(diagonal > 0.0) || !std::isfinite(diagonal))
            throw std::invalid_argument("the factor's diagonal must be positive");
        importance.push_back(1.0 / (diagonal * diagonal));
    }
}

}  // namespace edge

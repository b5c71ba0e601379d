// Row-wise kernels on every ISA: bit-equal to the generic ones, near a double reference, right on
// every length, and honest about numbers that are not finite.
#include <algorithm>
#include <limits>

#include "check.h"
#include "guarded.h"
#include "numbers.h"
#include "tables.h"

using namespace edge;
using namespace edge::test;

namespace {

constexpr int64_t max_count = 512;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float eps = 1e-5f;

Guarded<float> first_input(max_count), second_input(max_count), output(max_count),
    generic_output(max_count);

using Values = std::vector<float>;

void name_case(const KernelTable& table, const char* kernel, const Values& x) {
    current_case = std::string(table.isa) + " " + kernel + " of " + std::to_string(x.size());
}

void check_equal(const float* out, const float* expected, size_t count) {
    for (size_t i = 0; i < count; ++i) check(same(out[i], expected[i]), "differs from generic");
}

void check_rms_norm(const KernelTable& table, Side side, const Values& x, const Values& y) {
    name_case(table, "rms_norm", x);
    const size_t n = x.size();
    const auto count = static_cast<int64_t>(n);
    const float* in = first_input.copy(side, x);
    const float* weight = second_input.copy(side, y);
    float* out = output.at(side, n);
    float* twin = generic_output.at(side, n);
    const float mean = table.rms_norm(in, weight, count, eps, out);
    check(same(mean, generic_kernels.rms_norm(in, weight, count, eps, twin)), "another mean");
    check_equal(out, twin, n);
    double squares = 0.0;
    bool all_finite = true;
    for (const float value : x) {
        squares += double{value} * value;
        all_finite = all_finite && std::isfinite(value);
    }
    check(all_finite || !std::isfinite(mean), "hides a number that is not finite");
    if (!all_finite || squares > 1e37) return;
    check(near(mean, squares / count, 1e-6 * squares / count + 1e-44), "mean far from double");
    for (size_t i = 0; i < n; ++i) {
        const double wanted = double{x[i]} / std::sqrt(squares / count + eps) * y[i];
        check(near(out[i], wanted, 1e-6 * std::fabs(wanted) + 1e-37), "far from double");
    }
}

void check_silu(const KernelTable& table, Side side, const Values& x, const Values& y) {
    name_case(table, "silu_multiply", x);
    const size_t n = x.size();
    const auto count = static_cast<int64_t>(n);
    const float* gate = first_input.copy(side, x);
    const float* up = second_input.copy(side, y);
    float* out = output.at(side, n);
    float* twin = generic_output.at(side, n);
    table.silu_multiply(gate, up, count, out);
    generic_kernels.silu_multiply(gate, up, count, twin);
    check_equal(out, twin, n);
    for (size_t i = 0; i < n; ++i) {
        check(std::isfinite(x[i]) || !std::isfinite(out[i]), "hides a number that is not finite");
        const double wanted = x[i] / (1.0 + std::exp(-double{x[i]})) * y[i];
        if (std::fabs(x[i]) < 80.0f)
            check(near(out[i], wanted, 1e-6 * std::fabs(wanted) + 1e-37), "far from double");
    }
}

void check_add(const KernelTable& table, Side side, const Values& x, const Values& y) {
    name_case(table, "add", x);
    const float* in = first_input.copy(side, x);
    float* sum = output.copy(side, y);
    table.add(in, static_cast<int64_t>(x.size()), sum);
    for (size_t i = 0; i < x.size(); ++i) check(same(sum[i], x[i] + y[i]), "is no sum");
}

void check_exponentials(const KernelTable& table, Side side, const Values& x) {
    name_case(table, "exponentials", x);
    const size_t n = x.size();
    const float* in = first_input.copy(side, x);
    float* out = output.at(side, n);
    float* twin = generic_output.at(side, n);
    table.exponentials(in, static_cast<int64_t>(n), out);
    generic_kernels.exponentials(in, static_cast<int64_t>(n), twin);
    check_equal(out, twin, n);
    for (size_t i = 0; i < n; ++i)
        if (std::fabs(x[i]) < 87.0f)
            check(near(out[i], std::exp(double{x[i]}), 1e-6 * std::exp(double{x[i]})),
                  "far from double");
}

void check_add_scaled(const KernelTable& table, Side side, const Values& x, const Values& y) {
    name_case(table, "add_scaled", x);
    const float* in = first_input.copy(side, x);
    float* sum = output.copy(side, y);
    table.add_scaled(in, 0.3f, static_cast<int64_t>(x.size()), sum);
    for (size_t i = 0; i < x.size(); ++i)
        check(same(sum[i], std::fmaf(x[i], 0.3f, y[i])), "is no fused sum");
}

void check_top_two(const KernelTable& table, Side side, const Values& x) {
    name_case(table, "top_two", x);
    const float* in = first_input.copy(side, x);
    const auto count = static_cast<int64_t>(x.size());
    const TopTwo top = table.top_two(in, count);
    const TopTwo twin = generic_kernels.top_two(in, count);
    check(top.index == twin.index && same(top.first, twin.first) && same(top.second, twin.second),
          "differs from generic");
    if (std::any_of(x.begin(), x.end(), [](float value) { return std::isnan(value); })) return;
    const auto best = std::max_element(x.begin(), x.end());
    const bool is_none = best == x.end() || *best == -infinity;
    check(top.index == (is_none ? -1 : best - x.begin()), "is not the first of the largest");
    Values others = x;
    if (!is_none) others.erase(others.begin() + top.index);
    const auto second = std::max_element(others.begin(), others.end());
    check(top.first == (is_none ? -infinity : *best), "is not the largest");
    check(top.second == (others.empty() ? -infinity : *second), "is not the second largest");
}

void check_halves(const KernelTable& table, Side side, const Values& x) {
    static Guarded<uint16_t> halves(max_count);
    name_case(table, "round_halves", x);
    uint16_t* out = halves.filled(side, x.size(), 9999);
    table.round_halves(first_input.copy(side, x), static_cast<int64_t>(x.size()), out);
    for (size_t i = 0; i < x.size(); ++i) {
        const uint32_t sign = bits_of(x[i]) >> 16 & 0x8000u;
        const bool is_small = std::fabs(x[i]) < 0x1p-126f;
        check(out[i] == (is_small ? sign : bf16_from_float(x[i])), "another half");
    }
}

void check_moments(const KernelTable& table, Side side, const Values& x) {
    name_case(table, "logit_moments", x);
    const float* in = first_input.copy(side, x);
    const auto count = static_cast<int64_t>(x.size());
    const LogitMoments moments = table.logit_moments(in, count);
    const LogitMoments twin = generic_kernels.logit_moments(in, count);
    check(same(moments.maximum, twin.maximum) && same(moments.sum_exp, twin.sum_exp) &&
              same(moments.sum_weighted, twin.sum_weighted),
          "differs from generic");
    double sum = 0.0, weighted = 0.0;
    bool all_finite = true, plausible = true;
    for (const float value : x) {
        all_finite = all_finite && std::isfinite(value);
        const double distance = double{value} - moments.maximum;
        plausible = plausible && distance > -1e30;
        sum += std::exp(distance);
        weighted += distance * std::exp(distance);
    }
    if (!all_finite) {
        check(!std::isfinite(moments.sum_exp) || !std::isfinite(moments.sum_weighted),
              "hides a number that is not finite");
        return;
    }
    check(near(moments.sum_exp, sum, 1e-6 * sum), "sum far from double");
    // exp is never below 2^-126, which a distance beyond all reason makes visible.
    if (plausible)
        check(near(moments.sum_weighted, weighted, 2e-6 * (sum - weighted)),
              "moment far from double");
}

void check_all(const KernelTable& table, const Values& x, const Values& y) {
    for (const Side side : both_sides) {
        check_rms_norm(table, side, x, y);
        check_silu(table, side, x, y);
        check_exponentials(table, side, x);
        check_add(table, side, x, y);
        check_add_scaled(table, side, x, y);
        check_top_two(table, side, x);
        check_halves(table, side, x);
        check_moments(table, side, x);
    }
}

// Row `row` of a tile of `rows`, as LinearInput lays it out.
void check_quantized(const KernelTable& table, Side side, const Values& x, int row, int rows,
                     int64_t run) {
    static Guarded<int8_t> values(max_count * max_tile_rows);
    static Guarded<int32_t> sums(max_count / sum_step);
    name_case(table, "quantize_row", x);
    const auto depth = static_cast<int64_t>(x.size());
    int8_t* places = values.filled(side, static_cast<size_t>(depth * rows), 99);
    int32_t* totals = sums.filled(side, static_cast<size_t>(depth / run), 9999);
    const float scale = table.quantize_row(first_input.copy(side, x), depth,
                                           {places + row * 4, rows * 4, totals, run});
    float largest = 0.0f;
    bool all_finite = true;
    for (const float value : x) {
        largest = std::max(largest, std::fabs(value));
        all_finite = all_finite && std::isfinite(value);
    }
    if (!all_finite) return check(std::isnan(scale), "hides a number that is not finite");
    const bool is_zero = largest <= 1e-30f;
    check(same(scale, is_zero ? 0.0f : largest / 127.0f), "another scale");
    for (int64_t k = 0; k < depth; ++k)
        for (int r = 0; r < rows; ++r) {
            const float wanted = is_zero ? 0.0f : std::nearbyintf(x[k] * (127.0f / largest));
            check(places[(k / 4 * rows + r) * 4 + k % 4] == (r == row ? wanted : 99.0f),
                  "another value");
        }
    for (int64_t g = 0; g < depth / run; ++g) {
        int32_t wanted = 0;
        for (int64_t k = g * run; k < (g + 1) * run; ++k)
            wanted += places[(k / 4 * rows + row) * 4 + k % 4];
        check(totals[g] == wanted, "another sum");
    }
}

void check_quantized(const KernelTable& table, Side side, const Values& x, int row, int rows) {
    for (const int64_t run : {16, 32, 64, 128, 256})
        if (static_cast<int64_t>(x.size()) % run == 0)
            check_quantized(table, side, x, row, rows, run);
}

void check_quantize_row(const KernelTable& table, Side side) {
    for (const int64_t depth : {32, 64, 96, 512})
        for (int rows = 1; rows <= table.tile_rows; ++rows)
            for (int row = 0; row < rows; ++row)
                check_quantized(table, side, random_floats(depth, 50 + row), row, rows);
    Values odd(64, 0.0f);
    check_quantized(table, side, odd, 0, 1);
    for (const float value : {1e-31f, 1e-38f, 1e-45f, 3.4e38f, -3.4e38f, 1e-29f}) {
        odd[33] = value;
        check_quantized(table, side, odd, 0, 1);
    }
    Values ties;  // with a largest of 127 every half is a tie, which goes to even
    for (int i = 0; i < 64; ++i) ties.push_back(static_cast<float>(i) - 31.5f);
    ties[0] = 127.0f;
    check_quantized(table, side, ties, 0, 1);
    for (const float value : {infinity, -infinity, not_a_number})
        for (size_t place = 0; place < 64; ++place) {
            Values row = random_floats(64, 9);
            row[place] = value;
            check_quantized(table, side, row, 0, 1);
        }
}

void check_odd_numbers(const KernelTable& table) {
    for (const float value : {infinity, -infinity, not_a_number, 3.4e38f, -3.4e38f, 1e-45f, -0.0f,
                              88.5f, -87.5f, 1e4f, -1e4f})
        for (const size_t count : {1u, 15u, 16u, 17u, 40u})
            for (size_t place = 0; place < count; place += 3) {
                Values x = random_floats(count, 21);
                x[place] = value;
                check_all(table, x, random_floats(count, 22));
            }
}

}  // namespace

int main() {
    check(generic_kernels.top_two(nullptr, 0).index == -1, "the largest of nothing");
    for (const KernelTable* table : all_tables()) {
        for (size_t count = 1; count <= 70; ++count)
            for (const float scale : {1.0f, 30.0f})
                check_all(*table, random_floats(count, 11, scale), random_floats(count, 12));
        check_all(*table, random_floats(max_count, 13), random_floats(max_count, 14));
        check_all(*table, Values(33, 0.0f), Values(33, 1.0f));
        check_odd_numbers(*table);
        for (const Side side : both_sides) check_quantize_row(*table, side);
    }
    return verdict();
}

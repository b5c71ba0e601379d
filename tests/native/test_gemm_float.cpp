// Products with stored float weights, on every ISA: bit-equal, near a double reference, whatever
// the number of rows and columns of a call.
#include "check.h"
#include "guarded.h"
#include "numbers.h"
#include "tables.h"

using namespace edge;
using namespace edge::test;

namespace {

constexpr int max_rows = 70;
constexpr int max_cols = 70;
constexpr int64_t max_depth = 300;
constexpr float untouched = 12345.0f;

struct Stored {
    FloatFormat format;
    const char* name;
    size_t bytes;
};
constexpr Stored formats[] = {
    {FloatFormat::f32, "f32", 4}, {FloatFormat::f16, "f16", 2}, {FloatFormat::bf16, "bf16", 2}};

uint16_t narrow(FloatFormat format, float value) {
    return format == FloatFormat::f16 ? f16_from_float(value) : bf16_from_float(value);
}

float widen(FloatFormat format, uint16_t half) {
    return format == FloatFormat::f16 ? float_from_f16(half) : float_from_bf16(half);
}

// One format and depth: weights, rows, and what must come out.
class Problem {
public:
    Problem(const Stored& stored, int64_t depth)
        : stored_(stored), depth_(depth), values_(random_floats(max_cols * depth, 1)) {
        rows_ = random_floats(max_rows * depth, 2);
        bytes_.resize(values_.size() * stored.bytes);
        for (size_t i = 0; i < values_.size(); ++i) store(i);
        expected_.resize(max_rows * max_cols);
        for (int r = 0; r < max_rows; ++r)
            generic_kernels.gemm_float(weights(bytes_.data()), {&rows_[r * depth], depth, 1}, 0,
                                       max_cols, &expected_[r * max_cols], max_cols);
    }

    void check_reference() const {
        for (int r = 0; r < max_rows; ++r)
            for (int c = 0; c < max_cols; ++c) {
                double sum = 0.0, magnitude = 0.0;
                for (int64_t k = 0; k < depth_; ++k) {
                    const double product =
                        double{rows_[r * depth_ + k]} * double{values_[c * depth_ + k]};
                    sum += product;
                    magnitude += std::fabs(product);
                }
                check(near(expected_[r * max_cols + c], sum, 2e-6 * magnitude), "far from double");
            }
    }

    // Columns first..last-1 of some rows, every buffer against a forbidden page.
    void check_call(const KernelTable& table, Side side, int rows, int first, int last) {
        const size_t row_floats = static_cast<size_t>(rows * depth_);
        const int64_t stride = last + 3;  // the last three columns must stay untouched
        const size_t out_floats = static_cast<size_t>((rows - 1) * stride + last);
        const std::byte* placed =
            weight_buffer_.copy(side, bytes_.data(), last * depth_ * stored_.bytes);
        float* out = out_buffer_.filled(side, out_floats, untouched);
        table.gemm_float(weights(placed),
                         {row_buffer_.copy(side, rows_.data(), row_floats), depth_, rows}, first,
                         last, out, stride);
        current_case = std::string(table.isa) + " " + stored_.name + " depth " +
                       std::to_string(depth_) + " rows " + std::to_string(rows) + " columns " +
                       std::to_string(first) + ".." + std::to_string(last);
        for (int r = 0; r < rows; ++r)
            for (int64_t c = 0; c < (r + 1 < rows ? stride : last); ++c) {
                const bool wanted = c >= first && c < last;
                check(same(out[r * stride + c], wanted ? expected_[r * max_cols + c] : untouched),
                      wanted ? "differs from generic" : "writes outside its columns");
            }
    }

private:
    void store(size_t i) {
        if (stored_.format == FloatFormat::f32) {
            std::memcpy(&bytes_[i * 4], &values_[i], 4);
            return;
        }
        const uint16_t half = narrow(stored_.format, values_[i]);
        std::memcpy(&bytes_[i * 2], &half, 2);
        values_[i] = widen(stored_.format, half);
    }
    FloatWeights weights(const std::byte* data) const { return {stored_.format, data, depth_}; }

    const Stored& stored_;
    int64_t depth_;
    std::vector<float> values_, rows_, expected_;
    std::vector<std::byte> bytes_;
    Guarded<std::byte> weight_buffer_{max_cols * max_depth * 4};
    Guarded<float> row_buffer_{max_rows * max_depth};
    Guarded<float> out_buffer_{max_rows * (max_cols + 3)};
};

void check_shapes(const KernelTable& table, Problem& problem, Side side) {
    for (const int rows : {1, 2, 3, 4, 5, 9})
        for (int cols = 1; cols <= max_cols; cols += step_of(9))
            problem.check_call(table, side, rows, 0, cols);
    for (int rows = 1; rows <= max_rows; rows += step_of(9))
        for (const int cols : {1, 6, 17}) problem.check_call(table, side, rows, 0, cols);
    for (const int first : {1, 16, 48})
        for (const int cols : {1, 5, 16}) problem.check_call(table, side, 7, first, first + cols);
}

// All numbers of rows and columns; the sides take turns.
void check_every_shape(const KernelTable& table, Problem& problem) {
    for (int rows = 1; rows <= max_rows; rows += step_of(23))
        for (int cols = 1; cols <= max_cols; cols += step_of(17))
            problem.check_call(table, both_sides[(rows + cols) % 2], rows, 0, cols);
}

// Every half there is, in the first and in the last lane of a full and of a short run.
void check_all_halves(const KernelTable& table, const Stored& stored) {
    const float row[17] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    for (const int lane : {0, 15, 16})
        for (uint32_t half = 0; half < 65'536; ++half) {
            uint16_t weights[17] = {};
            weights[lane] = static_cast<uint16_t>(half);
            const float wanted = widen(stored.format, static_cast<uint16_t>(half));
            float out = 0.0f;
            table.gemm_float({stored.format, weights, 17}, {row, 17, 1}, 0, 1, &out, 1);
            if (out == wanted || (std::isnan(out) && std::isnan(wanted))) continue;
            current_case = std::string(table.isa) + " " + stored.name + " " + std::to_string(half);
            check(false, "a half is read wrongly");
        }
    check(true, "all halves were read");
}

}  // namespace

int main() {
    for (const Stored& stored : formats)
        for (const int64_t depth : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 100, 257}) {
            Problem problem(stored, depth);
            problem.check_reference();
            for (const KernelTable* table : all_tables())
                for (const Side side : both_sides) check_shapes(*table, problem, side);
        }
    for (int64_t depth = 1; depth <= 70; depth += step_of(23)) {
        Problem problem(formats[0], depth);
        for (const KernelTable* table : all_tables())
            if (table != &generic_kernels)
                check_every_shape(*table, problem);  // the others' measure
    }
    for (const KernelTable* table : all_tables())
        for (const Stored& stored : {formats[1], formats[2]}) check_all_halves(*table, stored);
    return verdict();
}

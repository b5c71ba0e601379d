// Products with int8 and int4 panels, on every ISA: equal bit for bit to plain loops, whatever the
// number of rows and columns of a call.
#include "check.h"
#include "guarded.h"
#include "numbers.h"
#include "tables.h"

using namespace edge;
using namespace edge::test;

namespace {

constexpr int max_rows = 17;  // more than any table's blocks of float rows
constexpr int64_t max_depth = 1024;
constexpr float untouched = 12345.0f;

enum class Content { random, smallest, largest, alternating, odd_scales };
constexpr Content contents[] = {Content::random, Content::smallest, Content::largest,
                                Content::alternating, Content::odd_scales};

struct Form {
    int bits;
    int64_t group;
    bool has_minima;
    bool is_fine;

    int zero_point() const { return bits == 8 ? 128 : has_minima ? 0 : 8; }
};

// Scales or minima as a panel holds them.
struct Scales {
    std::vector<uint16_t> halves;
    std::vector<int8_t> whole;
};

// 16 columns of weights and rows of activations, packed as kernels.h says.
class Problem {
public:
    Problem(const Form& form, int64_t depth, Content content)
        : form_(form), depth_(depth), content_(content), engine_(7) {
        weights_.resize(static_cast<size_t>(panel_cols * depth));
        for (size_t i = 0; i < weights_.size(); ++i) weights_[i] = weight(i);
        scales_ = make_scales();
        if (form.has_minima) minima_ = make_scales();
        activations_.resize(static_cast<size_t>(max_rows * depth));
        for (size_t i = 0; i < activations_.size(); ++i) activations_[i] = activation(i);
        floats_ = random_floats(activations_.size(), 3);
        row_scales_ = random_floats(max_rows, 4, 0.01f);
        pack();
    }

    int64_t groups() const { return depth_ / form_.group; }
    const std::vector<float>& floats() const { return floats_; }
    int64_t depth() const { return depth_; }

    // What an int kernel must return for a row and column: integers first, then two roundings.
    float expected_int(int row, int col) const {
        float total = 0.0f;
        for (int64_t g = 0; g < groups(); ++g) {
            int32_t sum = 0, added_up = 0;
            for (int64_t k = g * form_.group; k < (g + 1) * form_.group; ++k) {
                sum += weights_[col * depth_ + k] * activations_[row * depth_ + k];
                added_up += activations_[row * depth_ + k];
            }
            total = std::fmaf(static_cast<float>(sum), at(scales_, g, col), total);
            if (form_.has_minima)
                total = std::fmaf(static_cast<float>(added_up), 0.0f - at(minima_, g, col), total);
        }
        return total * row_scales_[row];
    }

    // The same weights against float activations: a lane per column, so the order is plain.
    float expected_float(int row, int col) const {
        float total = 0.0f;
        for (int64_t g = 0; g < groups(); ++g) {
            float sum = 0.0f, added_up = 0.0f;
            for (int64_t k = g * form_.group; k < (g + 1) * form_.group; ++k) {
                sum = std::fmaf(floats_[row * depth_ + k],
                                static_cast<float>(weights_[col * depth_ + k]), sum);
                added_up += floats_[row * depth_ + k];
            }
            total = std::fmaf(sum, at(scales_, g, col), total);
            if (form_.has_minima) total = std::fmaf(added_up, 0.0f - at(minima_, g, col), total);
        }
        return total;
    }

    // Against bfloat16: two products at a time, the second one first.
    float expected_halves(int row, int col) const {
        float total = 0.0f;
        for (int64_t g = 0; g < groups(); ++g) {
            float sum = 0.0f, lanes[16] = {};
            for (int64_t k = g * form_.group; k < (g + 1) * form_.group; k += 2)
                for (const int64_t i : {k + 1, k}) {
                    const float half = half_of(row, i);
                    sum = std::fmaf(half, static_cast<float>(weights_[col * depth_ + i]), sum);
                }
            for (int64_t k = g * form_.group; k < (g + 1) * form_.group; ++k)
                lanes[k % 16] += half_of(row, k);
            for (int width = 8; width >= 1; width /= 2)
                for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
            total = std::fmaf(sum, at(scales_, g, col), total);
            if (form_.has_minima) total = std::fmaf(lanes[0], 0.0f - at(minima_, g, col), total);
        }
        return total;
    }

    HalvesTile place_halves(const KernelTable& table, Side side, int rows) {
        std::byte* values =
            halves_buffer_.at(side, static_cast<size_t>(rows * depth_ * table.half_bytes));
        float* sums = halves_sum_buffer_.at(side, static_cast<size_t>(rows * groups()));
        for (int r = 0; r < rows; ++r) {
            const float* row = floats_.data() + r * depth_;
            table.sum_halves(row, depth_, form_.group, sums + r, rows);
            table.halve_row(row, depth_, values + 2 * r * table.half_bytes, rows);
        }
        return {values, sums, rows};
    }

    Panel place_panel(Side side) {
        const uint8_t* lines = line_buffer_.copy(side, lines_);
        const Ahead forbidden{lines + lines_.size(), form_.bits};
        return {lines,
                {scale_buffer_.copy(side, scales_.halves), whole(side, scales_, whole_scales_)},
                {form_.has_minima ? minimum_buffer_.copy(side, minima_.halves) : nullptr,
                 whole(side, minima_, whole_minima_)},
                depth_,
                form_.group,
                forbidden};
    }

    // Rows 0..rows-1 as one tile.
    QuantizedTile place_tile(Side side, int rows) {
        int8_t* values = value_buffer_.at(side, static_cast<size_t>(rows * depth_));
        int32_t* sums = sum_buffer_.filled(side, static_cast<size_t>(rows * groups()), 0);
        for (int r = 0; r < rows; ++r)
            for (int64_t k = 0; k < depth_; ++k) {
                const int8_t value = activations_[r * depth_ + k];
                values[(k / 4 * rows + r) * 4 + k % 4] = value;
                sums[k / form_.group * rows + r] +=
                    form_.zero_point() == 0 ? value : -form_.zero_point() * value;
            }
        return {values, sums,
                row_scale_buffer_.copy(side, row_scales_.data(), static_cast<size_t>(rows)), rows};
    }

    std::string name() const {
        return "int" + std::to_string(form_.bits) + " group " + std::to_string(form_.group) +
               (form_.has_minima ? " minima" : "") + (form_.is_fine ? " fine" : "") + " depth " +
               std::to_string(depth_) + " content " + std::to_string(static_cast<int>(content_));
    }

private:
    float half_of(int row, int64_t k) const {
        return float_from_bf16(bf16_from_float(floats_[row * depth_ + k]));
    }

    // Less the zero point; with minima from 0, of eight bits as q5_k uses them.
    int weight(size_t i) {
        const int low = form_.bits == 4 ? -form_.zero_point() : form_.has_minima ? 0 : -128;
        const int high = low + (form_.bits == 4 ? 15 : form_.has_minima ? 31 : 255);
        switch (content_) {
            case Content::smallest: return low;
            case Content::largest: return high;
            case Content::alternating: return i % 2 == 0 ? low : high;
            default: return low + static_cast<int>(engine_() % (high - low + 1u));
        }
    }
    int8_t activation(size_t i) {
        switch (content_) {
            case Content::smallest: return i / depth_ % 2 == 0 ? 127 : -127;
            case Content::largest: return i / depth_ % 2 == 0 ? -127 : 127;
            case Content::alternating: return i % 2 == 0 ? 127 : -127;
            default: return static_cast<int8_t>(static_cast<int>(engine_() % 255) - 127);
        }
    }
    uint16_t scale(size_t i) {
        constexpr uint16_t odd[] = {0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF,
                                    0xFBFF, 0x7C00, 0x7E00, 0xFC00, 0x3C00};
        if (content_ == Content::odd_scales) return odd[i % std::size(odd)];
        return f16_from_float(0.001f + 0.01f * static_cast<float>(engine_() % 100));
    }
    Scales make_scales() {
        Scales made;
        const int64_t halves = form_.is_fine ? depth_ / block_depth : groups();
        made.halves.resize(static_cast<size_t>(halves * panel_cols));
        for (size_t i = 0; i < made.halves.size(); ++i) made.halves[i] = scale(i);
        if (form_.is_fine) made.whole.resize(static_cast<size_t>(groups() * panel_cols));
        for (int8_t& value : made.whole) value = static_cast<int8_t>(engine_() % 256);
        return made;
    }
    float at(const Scales& scales, int64_t group, int col) const {
        if (!form_.is_fine) return float_from_f16(scales.halves[group * panel_cols + col]);
        const int64_t block = group * form_.group / block_depth;
        return float_from_f16(scales.halves[block * panel_cols + col]) *
               static_cast<float>(scales.whole[group * panel_cols + col]);
    }
    const int8_t* whole(Side side, const Scales& scales, Guarded<int8_t>& buffer) const {
        return scales.whole.empty() ? nullptr : buffer.copy(side, scales.whole);
    }
    void pack() {
        const int bits = form_.bits;
        lines_.assign(static_cast<size_t>(panel_cols * depth_ * bits / 8), 0);
        for (int c = 0; c < panel_cols; ++c)
            for (int64_t k = 0; k < depth_; ++k) {
                const int stored = weights_[c * depth_ + k] + form_.zero_point();
                if (bits == 8)
                    lines_[k / 4 * line_bytes + c * 4 + k % 4] = static_cast<uint8_t>(stored);
                else
                    lines_[k / 8 * line_bytes + c * 4 + k % 4] |=
                        static_cast<uint8_t>(stored << (k % 8 < 4 ? 0 : 4));
            }
    }

    Form form_;
    int64_t depth_;
    Content content_;
    std::mt19937 engine_;
    std::vector<int> weights_;
    std::vector<int8_t> activations_;
    Scales scales_, minima_;
    std::vector<float> floats_, row_scales_;
    std::vector<uint8_t> lines_;
    Guarded<uint8_t> line_buffer_{panel_cols * max_depth};
    Guarded<uint16_t> scale_buffer_{panel_cols * max_depth / sum_step};
    Guarded<uint16_t> minimum_buffer_{panel_cols * max_depth / sum_step};
    Guarded<int8_t> whole_scales_{panel_cols * max_depth / sum_step};
    Guarded<int8_t> whole_minima_{panel_cols * max_depth / sum_step};
    Guarded<int8_t> value_buffer_{max_rows * max_depth};
    Guarded<int32_t> sum_buffer_{max_rows * max_depth / sum_step};
    Guarded<float> row_scale_buffer_{max_rows};
    Guarded<std::byte> halves_buffer_{max_rows * max_depth * sizeof(float)};
    Guarded<float> halves_sum_buffer_{max_rows * max_depth / sum_step};
};

using Expected = std::vector<float>;  // [max_rows][panel_cols]

template <typename Evaluate>
Expected evaluate(Evaluate evaluate_one) {
    Expected expected;
    for (int r = 0; r < max_rows; ++r)
        for (int c = 0; c < panel_cols; ++c) expected.push_back(evaluate_one(r, c));
    return expected;
}

// `run` fills an output tile of some rows and columns.
template <typename Run>
void check_tile(Side side, int rows, int cols, const Expected& expected, Run run) {
    static Guarded<float> buffer(max_rows * (panel_cols + 2));
    const int64_t stride = cols + 2;
    const auto count = static_cast<size_t>((rows - 1) * stride + cols);
    float* out = buffer.filled(side, count, untouched);
    run(OutputTile{out, stride, cols});
    for (int r = 0; r < rows; ++r)
        for (int64_t c = 0; c < (r + 1 < rows ? stride : cols); ++c)
            check(same(out[r * stride + c], c < cols ? expected[r * panel_cols + c] : untouched),
                  c < cols ? "differs from the plain loop" : "writes outside its columns");
}

void check_problem(const KernelTable& table, int bits, Problem& problem, Side side) {
    const Expected ints = evaluate([&](int r, int c) { return problem.expected_int(r, c); });
    const Expected floats = evaluate([&](int r, int c) { return problem.expected_float(r, c); });
    const Expected halves = evaluate([&](int r, int c) { return problem.expected_halves(r, c); });
    const Panel panel = problem.place_panel(side);
    const auto gemm = bits == 8 ? table.gemm_int8 : table.gemm_int4;
    const auto gemm_of_halves = bits == 8 ? table.gemm_int8_halves : table.gemm_int4_halves;
    const auto gemm_of_floats = bits == 8 ? table.gemm_int8_float : table.gemm_int4_float;
    Guarded<float> row_buffer(max_rows * max_depth);
    for (int rows = 1; rows <= max_rows; rows += rows > 4 ? step_of(12) : 1)
        for (int cols = 1; cols <= panel_cols; cols += step_of(5)) {
            current_case = std::string(table.isa) + " " + problem.name() + " rows " +
                           std::to_string(rows) + " columns " + std::to_string(cols);
            if (rows <= table.tile_rows) {
                const QuantizedTile tile = problem.place_tile(side, rows);
                check_tile(side, rows, cols, ints,
                           [&](const OutputTile& out) { gemm(panel, tile, out); });
                const HalvesTile pairs = problem.place_halves(table, side, rows);
                check_tile(side, rows, cols, halves,
                           [&](const OutputTile& out) { gemm_of_halves(panel, pairs, out); });
            }
            const auto count = static_cast<size_t>(rows * problem.depth());
            const FloatRows input{row_buffer.copy(side, problem.floats().data(), count),
                                  problem.depth(), rows};
            check_tile(side, rows, cols, floats,
                       [&](const OutputTile& out) { gemm_of_floats(panel, input, out); });
        }
}

void check_everywhere(const Form& form, int64_t depth, Content content) {
    Problem problem(form, depth, content);
    for (const KernelTable* table : all_tables())
        for (const Side side : both_sides) check_problem(*table, form.bits, problem, side);
}

}  // namespace

int main() {
    for (const KernelTable* table : all_tables())
        check(table->tile_rows >= 1 && table->tile_rows <= max_tile_rows &&
                  table->query_rows <= max_tile_rows,
              "a table's tile is larger than callers provide for");
    constexpr Form forms[] = {
        {8, 32, false, false}, {4, 32, false, false},  {4, 32, true, false}, {8, 32, true, false},
        {4, 32, true, true},   {8, 32, true, true},    {8, 16, false, true}, {8, 16, false, false},
        {8, 64, false, false}, {4, 128, false, false}, {4, 64, true, false}, {8, 128, true, false},
    };
    for (const Form& form : forms)
        for (const int64_t depth : {32, 64, 96, 160, 256, 1024})
            for (const Content content : contents) {
                if (depth % form.group != 0 || (form.is_fine && depth % block_depth != 0)) continue;
                if (emulated_cpu() != nullptr && depth > 256) continue;
                const int64_t enough = form.is_fine ? block_depth : 128;
                if (content != Content::random && depth > enough) continue;
                check_everywhere(form, depth, content);
            }
    for (const int bits : {8, 4})  // one group for the whole depth
        for (const int64_t depth : {96, 1024})
            check_everywhere({bits, depth, false, false}, depth, Content::random);
    return verdict();
}

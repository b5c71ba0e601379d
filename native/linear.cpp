#include "linear.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace edge {

namespace {

// Layers of several widths take turns: a vector that shrinks and grows is filled with zeros anew.
template <typename Value>
void make_room(std::vector<Value>& values, int64_t count) {
    if (static_cast<int64_t>(values.size()) < count) values.resize(static_cast<size_t>(count));
}

// sum_kind's inverse.
int32_t factor_of(SumKinds kind) {
    const int set = __builtin_ctz(kind) / sums_per_zero_point;
    return set == 0 ? 1 : set == 1 ? -8 : -128;
}
int64_t group_of(SumKinds kind, int64_t depth) {
    const int size = __builtin_ctz(kind) % sums_per_zero_point;
    return size == sums_per_zero_point - 1 ? depth : int64_t{sum_step} << size;
}

template <typename Visit>
void for_kinds(SumKinds kinds, Visit visit) {
    for (SumKinds bit = 1; bit <= kinds; bit <<= 1)
        if ((kinds & bit) != 0) visit(bit);
}

}  // namespace

void LinearInput::resize(const KernelTable& kernels, int rows, int64_t depth, SumKinds kinds) {
    rows_ = rows;
    depth_ = depth;
    kinds_ = kinds;
    num_tiles_ = std::max(1, (rows + kernels.tile_rows - 1) / kernels.tile_rows);
    make_room(values_, rows * depth);
    if (kinds == 0) return;
    run_ = max_run;
    for_kinds(kinds, [&](SumKinds kind) { run_ = std::gcd(run_, group_of(kind, depth)); });
    make_room(quantized_, rows * depth);
    make_room(run_sums_, rows * (depth / run_));
    make_room(scales_, rows);
    for_kinds(kinds, [&](SumKinds kind) { lay_out(sums_of(kind)); });
}

LinearInput::GroupSums& LinearInput::sums_of(SumKinds kind) {
    for (GroupSums& sums : group_sums_)
        if (sums.kind == kind) return sums;
    return group_sums_.emplace_back(GroupSums{kind, factor_of(kind), 0, 0, {}, {}});
}

void LinearInput::lay_out(GroupSums& sums) {
    const int64_t group = group_of(sums.kind, depth_);
    sums.num_runs = group / run_;
    sums.groups_per_row = depth_ / group;
    make_room(sums.values, rows_ * sums.groups_per_row);
    sums.tiles.clear();
    for (int tile = 0; tile < num_tiles_; ++tile) {
        const int first = first_row(tile);
        sums.tiles.push_back({quantized_.data() + first * depth_,
                              sums.values.data() + first * sums.groups_per_row,
                              scales_.data() + first, first_row(tile + 1) - first});
    }
}

const std::vector<QuantizedTile>& LinearInput::tiles(SumKinds kind) const {
    return std::find_if(group_sums_.begin(), group_sums_.end(),
                        [kind](const GroupSums& sums) { return sums.kind == kind; })
        ->tiles;
}

int LinearInput::tile_of(int row) const {
    int tile = row * num_tiles_ / std::max(1, rows_);
    while (first_row(tile + 1) <= row) ++tile;
    while (first_row(tile) > row) --tile;
    return tile;
}

bool LinearInput::quantize_row(const KernelTable& kernels, int row) {
    const int tile = tile_of(row);
    const int first = first_row(tile);
    const int tile_rows = first_row(tile + 1) - first;
    const QuantizedRowSink sink{quantized_.data() + first * depth_ + (row - first) * 4,
                                tile_rows * 4, run_sums_.data() + row * (depth_ / run_), run_};
    float& scale = scales_[static_cast<size_t>(row)];
    scale = kernels.quantize_row(values_.data() + row * depth_, depth_, sink);
    if (!std::isfinite(scale)) return false;
    for (GroupSums& sums : group_sums_)
        if ((kinds_ & sums.kind) != 0) add_up(sums, row, tile);
    return true;
}

void LinearInput::add_up(GroupSums& sums, int row, int tile) const {
    const int first = first_row(tile);
    const int tile_rows = first_row(tile + 1) - first;
    const int32_t* run = run_sums_.data() + row * (depth_ / run_);
    int32_t* place = sums.values.data() + first * sums.groups_per_row + (row - first);
    for (int64_t g = 0; g < sums.groups_per_row; ++g, place += tile_rows) {
        int32_t total = 0;
        for (int64_t i = 0; i < sums.num_runs; ++i) total += *run++;
        *place = total * sums.factor;
    }
}

namespace {

// Fewer rows take a panel as fast as memory gives it, and then the hardware's own prefetching does
// better.
constexpr int fewest_rows_to_fetch_ahead = 4;

// While the tiles take a panel, each fetches its share of the next one.
Ahead next_panel(const Panel& panel, int bits, int tile, int num_tiles) {
    const int lines = depth_step * panel_cols * bits / 8 / line_bytes;  // of a step
    const int per_step = (lines + num_tiles - 1) / num_tiles;
    const int64_t steps = panel.depth / depth_step;
    return {panel.lines + steps * (lines + tile * per_step) * line_bytes, per_step};
}

void multiply_panel(const Machine& machine, const LinearInput& input, const WeightMatrix& weights,
                    int64_t index, float* out, int64_t out_stride) {
    Panel panel = weights.panel(index);
    const int cols =
        static_cast<int>(std::min<int64_t>(panel_cols, weights.num_outputs() - index * panel_cols));
    const KernelTable& kernels = machine.kernels;
    if (!input.is_quantized_for(weights)) {
        const auto gemm = weights.bits() == 8 ? kernels.gemm_int8_float : kernels.gemm_int4_float;
        return gemm(panel, input.floats(), {out, out_stride, cols});
    }
    const auto gemm = weights.bits() == 8 ? kernels.gemm_int8 : kernels.gemm_int4;
    const bool fetches = input.rows() >= fewest_rows_to_fetch_ahead;
    int index_of_tile = 0;
    for (const QuantizedTile& tile : input.tiles(weights.sums())) {
        if (fetches)
            panel.ahead = next_panel(panel, weights.bits(), index_of_tile++, input.num_tiles());
        gemm(panel, tile, {out, out_stride, cols});
        out += tile.rows * out_stride;
    }
}

}  // namespace

void multiply_panels(const Machine& machine, const LinearInput& input, const WeightMatrix& weights,
                     int64_t first_panel, int64_t last_panel, float* out, int64_t out_stride) {
    const int64_t first = first_panel * panel_cols;
    if (!weights.is_quantized()) {
        const int64_t last = std::min(last_panel * panel_cols, weights.num_outputs());
        return machine.kernels.gemm_float(weights.stored(), input.floats(), first, last,
                                          out - first, out_stride);
    }
    for (int64_t index = first_panel; index < last_panel; ++index)
        multiply_panel(machine, input, weights, index, out + index * panel_cols - first,
                       out_stride);
}

int64_t operations(const LinearInput& input, const WeightMatrix& weights) {
    return input.rows() * weights.num_outputs() * weights.depth() *
           (input.is_quantized_for(weights) ? 1 : float_multiply_add);
}

void multiply(const Machine& machine, const LinearInput& input,
              std::initializer_list<Product> products) {
    ThreadPool::Work work{0, 0};
    for (const Product& product : products) {
        work.num_chunks += product.weights->num_panels();
        work.operations += operations(input, *product.weights);
    }
    machine.pool.run(work, [&](int64_t panel, int) {
        for (const Product& product : products) {
            const int64_t count = product.weights->num_panels();
            if (panel < count) {
                multiply_panels(machine, input, *product.weights, panel, panel + 1,
                                product.out + panel * panel_cols, product.out_stride);
                return;
            }
            panel -= count;
        }
    });
}

}  // namespace edge

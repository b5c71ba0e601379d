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

// kind_in_set's inverse.
int32_t factor_of(SumKinds kind) {
    const int set = __builtin_ctz(kind) / sums_per_set;
    return set == 0 ? 1 : set == 1 ? -8 : -128;
}
int64_t group_of(SumKinds kind, int64_t depth) {
    const int size = __builtin_ctz(kind) % sums_per_set;
    return size == sums_per_set - 1 ? depth : int64_t{sum_step} << size;
}

template <typename Visit>
void for_kinds(SumKinds kinds, Visit visit) {
    for (SumKinds bit = 1; bit <= kinds; bit <<= 1)
        if ((kinds & bit) != 0) visit(bit);
}

template <typename Sums>
auto find(Sums& sums, SumKinds kind) {
    return std::find_if(sums.begin(), sums.end(),
                        [kind](const auto& each) { return each.kind == kind; });
}
template <typename Sums>
auto& find_or_add(Sums& sums, SumKinds kind) {
    const auto found = find(sums, kind);
    return found == sums.end() ? sums.emplace_back(typename Sums::value_type{kind}) : *found;
}

}  // namespace

void LinearInput::divide(int tile_rows, const std::vector<int>& starts) {
    tile_starts_ = {0};
    group_tiles_ = {0};
    for (size_t group = 0; group + 1 < starts.size(); ++group) {
        const int rows = starts[group + 1] - starts[group];
        const int tiles = (rows + tile_rows - 1) / tile_rows;
        for (int tile = 1; tile <= tiles; ++tile)
            tile_starts_.push_back(starts[group] + tile * rows / tiles);
        group_tiles_.push_back(num_tiles());
    }
}

void LinearInput::resize(const KernelTable& kernels, int rows, int64_t depth, SumKinds kinds) {
    rows_ = rows;
    depth_ = depth;
    kinds_ = kinds;
    make_room(values_, rows * depth);
    if ((kinds & int8_kinds) != 0) {
        run_ = max_run;
        for_kinds(kinds & int8_kinds,
                  [&](SumKinds kind) { run_ = std::gcd(run_, group_of(kind, depth)); });
        make_room(quantized_, rows * depth);
        make_room(run_sums_, rows * (depth / run_));
        make_room(scales_, rows);
    }
    if ((kinds & ~int8_kinds) != 0) make_room(halves_, rows * depth * kernels.half_bytes);
    for_kinds(kinds & int8_kinds, [&](SumKinds kind) { lay_out(kind); });
    for_kinds(kinds & ~int8_kinds, [&](SumKinds kind) { lay_out_halves(kernels, kind); });
}

void LinearInput::lay_out(SumKinds kind) {
    GroupSums& sums = find_or_add(group_sums_, kind);
    sums.group = group_of(kind, depth_);
    const int64_t num_groups = depth_ / sums.group;
    make_room(sums.values, rows_ * num_groups);
    sums.tiles.clear();
    for (int tile = 0; tile < num_tiles(); ++tile) {
        const int first = first_row(tile);
        sums.tiles.push_back({quantized_.data() + first * depth_,
                              sums.values.data() + first * num_groups, scales_.data() + first,
                              first_row(tile + 1) - first});
    }
}

void LinearInput::lay_out_halves(const KernelTable& kernels, SumKinds kind) {
    HalvesSums& sums = find_or_add(halves_sums_, kind);
    sums.group = group_of(kind, depth_);
    const int64_t num_groups = depth_ / sums.group;
    make_room(sums.values, rows_ * num_groups);
    sums.tiles.clear();
    for (int tile = 0; tile < num_tiles(); ++tile) {
        const int first = first_row(tile);
        sums.tiles.push_back({halves_.data() + first * depth_ * kernels.half_bytes,
                              sums.values.data() + first * num_groups,
                              first_row(tile + 1) - first});
    }
}

const std::vector<QuantizedTile>& LinearInput::tiles(SumKinds kind) const {
    return find(group_sums_, kind)->tiles;
}

const std::vector<HalvesTile>& LinearInput::halves_tiles(SumKinds kind) const {
    return find(halves_sums_, kind)->tiles;
}

int LinearInput::tile_of(int row) const {
    const auto after = std::upper_bound(tile_starts_.begin(), tile_starts_.end(), row);
    return static_cast<int>(after - tile_starts_.begin()) - 1;
}

bool LinearInput::quantize_row(const KernelTable& kernels, int row) {
    const int tile = tile_of(row);
    return ((kinds_ & int8_kinds) == 0 || to_int8(kernels, row, tile)) &&
           ((kinds_ & ~int8_kinds) == 0 || to_halves(kernels, row, tile));
}

bool LinearInput::to_int8(const KernelTable& kernels, int row, int tile) {
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
    const int64_t num_groups = depth_ / sums.group;
    const int32_t factor = factor_of(sums.kind);
    const int32_t* run = run_sums_.data() + row * (depth_ / run_);
    int32_t* place = sums.values.data() + first * num_groups + (row - first);
    for (int64_t g = 0; g < num_groups; ++g, place += tile_rows) {
        int32_t total = 0;
        for (int64_t i = 0; i < sums.group; i += run_) total += *run++;
        *place = total * factor;
    }
}

bool LinearInput::to_halves(const KernelTable& kernels, int row, int tile) {
    const int first = first_row(tile);
    const int tile_rows = first_row(tile + 1) - first;
    const float* values = values_.data() + row * depth_;
    std::byte* pairs = halves_.data() + (first * depth_ + (row - first) * 2) * kernels.half_bytes;
    for (HalvesSums& sums : halves_sums_)
        if ((kinds_ & sums.kind) != 0)
            kernels.sum_halves(values, depth_, sums.group,
                               sums.values.data() + first * (depth_ / sums.group) + (row - first),
                               tile_rows);
    return std::isfinite(kernels.halve_row(values, depth_, pairs, tile_rows));
}

namespace {

// Fewer rows take a panel as fast as memory gives it, and then the hardware's own prefetching does
// better. Where a table takes few rows at a time, it is slower than memory from fewer rows on.
int fewest_rows_to_fetch_ahead(const KernelTable& kernels) {
    return std::min(4, kernels.tile_rows / 2);
}

// While the tiles take a panel, each fetches its share of the next one.
Ahead next_panel(const Panel& panel, int bits, int tile, int num_tiles) {
    const int lines = depth_step * panel_cols * bits / 8 / line_bytes;  // of a step
    const int per_step = (lines + num_tiles - 1) / num_tiles;
    const int64_t steps = panel.depth / depth_step;
    return {panel.lines + steps * (lines + tile * per_step) * line_bytes, per_step};
}

template <typename Tile>
using Gemm = void (*)(const Panel& panel, const Tile& tile, const OutputTile& out);

template <typename Tile>
void multiply_tiles(Gemm<Tile> gemm, Panel panel, int bits, const InputRows& rows,
                    const std::vector<Tile>& tiles, bool fetches, OutputTile out) {
    const int num_tiles = rows.last_tile - rows.first_tile;
    for (int index = 0; index < num_tiles; ++index) {
        const Tile& tile = tiles[static_cast<size_t>(rows.first_tile + index)];
        if (fetches) panel.ahead = next_panel(panel, bits, index, num_tiles);
        gemm(panel, tile, out);
        out.data += tile.rows * out.stride;
    }
}

void multiply_panel(const Machine& machine, const InputRows& rows, const WeightMatrix& weights,
                    int64_t index, float* out, int64_t out_stride) {
    const KernelTable& kernels = machine.kernels;
    const Panel panel = weights.panel(index);
    const int bits = weights.bits();
    const int64_t cols = std::min<int64_t>(panel_cols, weights.num_outputs() - index * panel_cols);
    const OutputTile place{out, out_stride, static_cast<int>(cols)};
    const bool fetches = rows.count() >= fewest_rows_to_fetch_ahead(kernels);
    const SumKinds kind = weights.sums();
    if (!rows.input.is_quantized_for(weights))
        return (bits == 8 ? kernels.gemm_int8_float : kernels.gemm_int4_float)(panel, rows.floats(),
                                                                               place);
    if ((kind & int8_kinds) != 0)
        return multiply_tiles(bits == 8 ? kernels.gemm_int8 : kernels.gemm_int4, panel, bits, rows,
                              rows.input.tiles(kind), fetches, place);
    multiply_tiles(bits == 8 ? kernels.gemm_int8_halves : kernels.gemm_int4_halves, panel, bits,
                   rows, rows.input.halves_tiles(kind), /*fetches=*/false, place);
}

}  // namespace

void multiply_panels(const Machine& machine, const InputRows& rows, const WeightMatrix& weights,
                     int64_t first_panel, int64_t last_panel, float* out, int64_t out_stride) {
    const int64_t first = first_panel * panel_cols;
    if (!weights.is_quantized()) {
        const int64_t last = std::min(last_panel * panel_cols, weights.num_outputs());
        return machine.kernels.gemm_float(weights.stored(), rows.floats(), first, last, out - first,
                                          out_stride);
    }
    for (int64_t index = first_panel; index < last_panel; ++index)
        multiply_panel(machine, rows, weights, index, out + index * panel_cols - first, out_stride);
}

int64_t operations(const InputRows& rows, const WeightMatrix& weights) {
    const bool is_int8 = rows.input.is_quantized_for(weights) && (weights.sums() & int8_kinds) != 0;
    return rows.count() * weights.num_outputs() * weights.depth() *
           (is_int8 ? 1 : float_multiply_add);
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

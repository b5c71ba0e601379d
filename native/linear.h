// Matrix products of a step's activations with weights, in parallel over output columns.
#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels/kernels.h"
#include "thread_pool.h"
#include "weights.h"

namespace edge {

enum class Activations { int8, f32 };

// What float operations cost in the unit of ThreadPool::Work, rather too little than too much:
// the fastest region tells the machine's speed, so one that is overrated makes all look short.
constexpr int64_t float_multiply_add = 2;
constexpr int64_t added_element = 4;
constexpr int64_t rotated_element = 16;  // biases and norms included
constexpr int64_t quantized_element = 48;

// What every operation of a step needs to run.
struct Machine {
    ThreadPool& pool;
    const KernelTable& kernels;
    Activations activations;
};

// The activations that enter a linear layer, float and (for quantized weights) int8 as well.
// Rows are split evenly into tiles of at most KernelTable::tile_rows; where they are in groups
// that meet weights of their own, each group is.
class LinearInput {
public:
    // Fill row r by produce(r, place) and, if sums are asked for, quantize it in the same go for
    // weights that need those. Returns false when a row to be quantized was not finite. produce
    // must not throw.
    template <typename Produce>
    bool fill(const Machine& machine, int rows, int64_t depth, SumKinds kinds, Produce produce) {
        one_group_ = {0, rows};
        return fill_groups(machine, one_group_, depth, kinds, produce);
    }

    // The same in groups: rows starts[g]..starts[g + 1]-1 are those of group g.
    template <typename Produce>
    bool fill_groups(const Machine& machine, const std::vector<int>& starts, int64_t depth,
                     SumKinds kinds, Produce produce) {
        divide(machine.kernels.tile_rows, starts);
        const int rows = starts.back();
        resize(machine.kernels, rows, depth, machine.activations == Activations::int8 ? kinds : 0);
        std::atomic<bool> finite{true};
        const int64_t element = is_quantized() ? quantized_element : added_element;
        machine.pool.run({rows, rows * depth * element}, [&](int64_t row, int) {
            float* place = values_.data() + row * depth_;
            produce(static_cast<int>(row), place);
            if (is_quantized() && !quantize_row(machine.kernels, static_cast<int>(row)))
                finite = false;
        });
        return finite;
    }

    bool is_quantized() const { return kinds_ != 0; }  // to int8, bfloat16 or both
    bool is_quantized_for(const WeightMatrix& weights) const {
        return (kinds_ & weights.sums()) != 0;
    }
    int rows() const { return rows_; }
    const float* row(int index) const { return values_.data() + index * depth_; }
    std::vector<float> values() const {  // [rows, depth]
        return {values_.begin(), values_.begin() + rows_ * depth_};
    }
    int64_t depth() const { return depth_; }
    int num_tiles() const { return static_cast<int>(tile_starts_.size()) - 1; }
    int first_row(int tile) const { return tile_starts_[static_cast<size_t>(tile)]; }
    int num_groups() const { return static_cast<int>(group_tiles_.size()) - 1; }
    int first_tile(int group) const { return group_tiles_[static_cast<size_t>(group)]; }
    // Of a kind that `fill` was asked for.
    const std::vector<QuantizedTile>& tiles(SumKinds kind) const;
    const std::vector<HalvesTile>& halves_tiles(SumKinds kind) const;

private:
    // Sums of all rows of one kind: per tile [depth / group][rows of the tile].
    template <typename Value, typename Tile>
    struct Sums {
        SumKinds kind;
        int64_t group = 0;
        std::vector<Value> values = {};
        std::vector<Tile> tiles = {};
    };
    using GroupSums = Sums<int32_t, QuantizedTile>;
    using HalvesSums = Sums<float, HalvesTile>;

    void divide(int tile_rows, const std::vector<int>& starts);
    void resize(const KernelTable& kernels, int rows, int64_t depth, SumKinds kinds);
    void lay_out(SumKinds kind);
    void lay_out_halves(const KernelTable& kernels, SumKinds kind);
    bool quantize_row(const KernelTable& kernels, int row);
    bool to_int8(const KernelTable& kernels, int row, int tile);
    bool to_halves(const KernelTable& kernels, int row, int tile);
    void add_up(GroupSums& sums, int row, int tile) const;
    int tile_of(int row) const;

    int rows_ = 0;
    int64_t depth_ = 0;
    int64_t run_ = max_run;               // divides all groups
    std::vector<int> tile_starts_ = {0};  // [tiles + 1]
    std::vector<int> group_tiles_ = {0};  // [groups + 1], the first tile of each
    std::vector<int> one_group_;
    SumKinds kinds_ = 0;
    // At least as large as this fill needs:
    std::vector<float> values_;
    std::vector<int8_t> quantized_;
    std::vector<int32_t> run_sums_;  // [rows][depth / run]
    std::vector<float> scales_;
    std::vector<std::byte> halves_;
    // Some of this fill's, some of fills before:
    std::vector<GroupSums> group_sums_;
    std::vector<HalvesSums> halves_sums_;
};

// All rows of an input, or those of one of its groups.
struct InputRows {
    const LinearInput& input;
    int first_tile, last_tile;

    InputRows(const LinearInput& all)  // NOLINT: meant to be implicit
        : input(all), first_tile(0), last_tile(all.num_tiles()) {}
    InputRows(const LinearInput& groups, int group)
        : input(groups),
          first_tile(groups.first_tile(group)),
          last_tile(groups.first_tile(group + 1)) {}

    int first_row() const { return input.first_row(first_tile); }
    int count() const { return input.first_row(last_tile) - first_row(); }
    FloatRows floats() const { return {input.row(first_row()), input.depth(), count()}; }
};

struct Product {
    const WeightMatrix* weights;
    float* out;  // [rows][out_stride]
    int64_t out_stride;
};

// Columns [first_panel, last_panel) * 16 of one product; out points at the first of them.
void multiply_panels(const Machine& machine, const InputRows& rows, const WeightMatrix& weights,
                     int64_t first_panel, int64_t last_panel, float* out, int64_t out_stride);

// What multiplying by these weights takes.
int64_t operations(const InputRows& rows, const WeightMatrix& weights);

// All products of one input in one parallel region.
void multiply(const Machine& machine, const LinearInput& input,
              std::initializer_list<Product> products);

}  // namespace edge

// Whole linear layers: packed weights, activations in tiles, work shared over threads. A row's
// result depends neither on the number of rows nor on the threads nor on the ISA.
#include "linear.h"

#include <limits>

#include "check.h"
#include "gguf_bytes.h"
#include "tables.h"

using namespace edge;
using namespace edge::test;

namespace {

constexpr int max_rows = 70;

struct Layer {
    TensorType type;
    int64_t num_outputs;
    int64_t depth;
    std::vector<float> dequantized;  // [num_outputs][depth]
    const ModelFile* file;

    std::string name() const {
        return std::string(layout_of(type).name) + "-" + std::to_string(num_outputs) + "x" +
               std::to_string(depth);
    }
};

// Rows through one layer; [rows][num_outputs].
std::vector<float> run(const Machine& machine, const Layer& layer, const std::vector<float>& rows) {
    const int64_t depth = layer.depth;
    const WeightMatrix weights(*layer.file, *layer.file->find(layer.name()));
    if (weights.is_quantized()) {
        AlignedBytes packed = allocate_aligned(weights.panels()->num_bytes());
        weights.panels()->pack(packed.get(), machine.pool);
        weights.panels()->keep(std::move(packed));
    }
    const int count = static_cast<int>(rows.size() / depth);
    LinearInput input;
    const bool finite = input.fill(machine, count, depth, weights.sums(), [&](int row, float* out) {
        std::copy_n(rows.data() + row * depth, depth, out);
    });
    check(finite, "finite rows are called non-finite");
    std::vector<float> out(static_cast<size_t>(count * layer.num_outputs), -777.0f);
    multiply(machine, input, {{&weights, out.data(), layer.num_outputs}});
    return out;
}

// Largest difference that int8 activations may make: half a step of the row's scale per weight.
double tolerance(const Layer& layer, const float* row, int64_t output, bool rounds) {
    double largest = 0.0, weight_sum = 0.0, magnitude = 0.0;
    for (int64_t k = 0; k < layer.depth; ++k) {
        const double weight = layer.dequantized[static_cast<size_t>(output * layer.depth + k)];
        largest = std::max(largest, double{std::fabs(row[k])});
        weight_sum += std::fabs(weight);
        magnitude += std::fabs(weight * row[k]);
    }
    return 3e-6 * magnitude + (rounds ? largest / 254.0 * weight_sum * 1.001 : 0.0);
}

void check_reference(const Layer& layer, const std::vector<float>& rows,
                     const std::vector<float>& out, bool rounds) {
    const int64_t depth = layer.depth;
    for (int r = 0; r < max_rows; ++r)
        for (int64_t c = 0; c < layer.num_outputs; ++c) {
            double wanted = 0.0;
            for (int64_t k = 0; k < depth; ++k)
                wanted += double{rows[static_cast<size_t>(r * depth + k)]} *
                          layer.dequantized[static_cast<size_t>(c * depth + k)];
            check(near(out[static_cast<size_t>(r * layer.num_outputs + c)], wanted,
                       tolerance(layer, &rows[static_cast<size_t>(r * depth)], c, rounds)),
                  "far from double");
        }
}

void check_layer(const Layer& layer, Activations activations) {
    const int64_t depth = layer.depth;
    const std::vector<float> rows = random_floats(static_cast<size_t>(max_rows * depth), 41);
    ThreadPool single(1), several(3);
    const bool rounds = activations == Activations::int8 &&
                        find_group_code(stored_type(layer.type, depth)).has_value();
    current_case = layer.name();
    const auto expected = run({single, generic_kernels, activations}, layer, rows);
    check_reference(layer, rows, expected, rounds);
    for (const KernelTable* table : all_tables())
        for (int count = 1; count <= max_rows; count += step_of(7)) {
            current_case = layer.name() + " " + table->isa + " rows " + std::to_string(count);
            const int first = max_rows - count;
            ThreadPool& pool = count % 8 == 0 ? several : single;
            const auto out =
                run({pool, *table, activations}, layer, {rows.begin() + first * depth, rows.end()});
            for (size_t i = 0; i < out.size(); ++i)
                check(same(out[i], expected[first * layer.num_outputs + i]),
                      "depends on ISA, threads or number of rows");
        }
}

// Tiles cover each row once, and none is larger than the table takes.
void check_tiles() {
    ThreadPool pool(1);
    for (const KernelTable* table : all_tables())
        for (int rows = 1; rows <= 200; ++rows) {
            LinearInput input;
            input.fill({pool, *table, Activations::int8}, rows, 32, sum_kind(32, 8),
                       [](int, float* out) { std::fill_n(out, 32, 1.0f); });
            int next = 0;
            int number = 0;
            for (const QuantizedTile& tile : input.tiles(sum_kind(32, 8))) {
                check(input.first_row(number++) == next && tile.rows >= 1 &&
                          tile.rows <= table->tile_rows,
                      "tiles do not cover the rows");
                next += tile.rows;
            }
            check(next == rows && number == input.num_tiles(), "tiles do not cover the rows");
        }
}

void check_non_finite_rows_are_told(SumKinds kinds) {
    ThreadPool pool(2);
    const auto row_with = [](int bad, float value) {
        return [=](int row, float* out) {
            std::fill_n(out, 32, 1.0f);
            if (row == bad) out[row] = value;
        };
    };
    for (const KernelTable* table : all_tables()) {
        const Machine machine{pool, *table, Activations::int8};
        for (int bad = 0; bad < 9; ++bad)
            for (const float value : {std::numeric_limits<float>::infinity(),
                                      std::numeric_limits<float>::quiet_NaN()}) {
                LinearInput input;
                check(!input.fill(machine, 9, 32, kinds, row_with(bad, value)),
                      "a row that is not finite is called finite");
                check(input.fill(machine, 9, 32, kinds, row_with(bad, 3.4e38f)),
                      "a finite row is called infinite");
            }
    }
}

std::vector<float> as_stored(TensorType type, const std::vector<float>& values, int64_t depth) {
    std::vector<float> read(values.size());
    const StoredType stored = stored_type(type, depth);
    std::vector<std::byte> row(*row_bytes(stored, static_cast<uint64_t>(depth)));
    for (size_t first = 0; first < values.size(); first += static_cast<size_t>(depth)) {
        quantize_row(stored, values.data() + first, depth, row.data());
        dequantize_row(stored, row.data(), depth, read.data() + first);
    }
    return read;
}

}  // namespace

int main() {
    shortest_shared_ns = 0;
    std::vector<Layer> layers;
    GgufBytes bytes;
    for (const TensorType type :
         {TensorType::f32, TensorType::f16, TensorType::bf16, TensorType::q8_0, TensorType::q4_0,
          TensorType::int8, TensorType::int4})
        for (const auto& [depth, outputs] :
             std::initializer_list<std::pair<int64_t, int64_t>>{{32, 1},
                                                                {32, 15},
                                                                {32, 16},
                                                                {32, 17},
                                                                {32, 31},
                                                                {32, 70},
                                                                {160, 3},
                                                                {160, 33},
                                                                {384, 17}}) {
            const auto values = random_floats(static_cast<size_t>(outputs * depth), 42, 0.1f);
            layers.push_back({type, outputs, depth, as_stored(type, values, depth), nullptr});
            bytes.add_tensor(layers.back().name(), type, outputs, depth, values);
        }
    const TemporaryFile stored(bytes.assemble());
    const ModelFile file(stored.path(), true);
    for (Layer& layer : layers) {
        layer.file = &file;
        for (const Activations kind : {Activations::int8, Activations::f32})
            check_layer(layer, kind);
    }
    check_tiles();
    for (const SumKinds kinds :
         {sum_kind(32, 8), kind_in_set(bf16_set, 32), sum_kind(32, 8) | kind_in_set(bf16_set, 32)})
        check_non_finite_rows_are_told(kinds);
    return verdict();
}

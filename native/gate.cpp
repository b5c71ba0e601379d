#include "gate.h"

#include <algorithm>

#include "errors.h"

namespace edge {

std::optional<LowRank> LowRank::take(TensorSource& source, const std::string& name,
                                     int64_t num_outputs, int64_t depth, int64_t most_ranks) {
    const std::string a = name + ".gate_a.weight";
    const std::string b = name + ".gate_b.weight";
    if (most_ranks == 0 || (!source.has(a) && !source.has(b))) return std::nullopt;
    const int64_t rank = source.num_rows(a);
    if (rank > most_ranks)
        throw FileFault(0, "tensor '" + a + "' has the rank " + std::to_string(rank) +
                               ", edge.gate.rank says at most " + std::to_string(most_ranks));
    WeightMatrix first = source.take_matrix(a, rank, depth);
    return LowRank{std::move(first), source.take_matrix(b, num_outputs, rank)};
}

bool Gate::raise(const Machine& machine, const LinearInput& input, const std::vector<int32_t>& rows,
                 std::initializer_list<Raised> products) {
    SumKinds kinds = 0;
    bool any = false;
    for (const Raised& product : products) {
        if (!product.update->has_value()) continue;
        kinds |= (*product.update)->a.sums();
        any = true;
    }
    if (!any || rows.empty()) return true;
    const auto copy = [&](int row, float* out) {
        std::copy_n(input.row(rows[static_cast<size_t>(row)]), input.depth(), out);
    };
    bool finite = input_.fill(machine, static_cast<int>(rows.size()), input.depth(), kinds, copy);
    for (const Raised& product : products)
        if (finite && product.update->has_value()) finite = raise(machine, rows, product);
    return finite;
}

bool Gate::raise(const Machine& machine, const std::vector<int32_t>& rows, const Raised& product) {
    const LowRank& update = **product.update;
    const auto count = static_cast<int64_t>(rows.size());
    const int64_t rank = update.a.num_outputs();
    const int64_t width = update.b.num_outputs();
    low_values_.resize(static_cast<size_t>(count * rank));
    multiply(machine, input_, {{&update.a, low_values_.data(), rank}});
    const auto copy = [&](int row, float* out) {
        std::copy_n(low_values_.data() + row * rank, rank, out);
    };
    if (!low_.fill(machine, static_cast<int>(count), rank, update.b.sums(), copy)) return false;
    deltas_.resize(static_cast<size_t>(count * width));
    multiply(machine, low_, {{&update.b, deltas_.data(), width}});
    machine.pool.run({count, count * width * added_element}, [&](int64_t row, int) {
        const int64_t at = rows[static_cast<size_t>(row)];
        machine.kernels.add(deltas_.data() + row * width, width,
                            product.out + at * product.out_stride);
    });
    return true;
}

}  // namespace edge

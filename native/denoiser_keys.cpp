// The keys and values of a step: where they are put, who sees them, which of them are kept.
#include <algorithm>
#include <numeric>
#include <utility>

#include "denoiser.h"
#include "scratch.h"

namespace edge {
namespace {

std::vector<int32_t> numbers(int32_t first, int32_t last) {
    std::vector<int32_t> all(static_cast<size_t>(last - first));
    std::iota(all.begin(), all.end(), first);
    return all;
}

}  // namespace

void Denoiser::plan_keys(const StepInput& input) {
    Scratch& s = *scratch_;
    const int64_t active = static_cast<int64_t>(input.ids.size());
    s.all_rows.resize(static_cast<size_t>(active));
    std::iota(s.all_rows.begin(), s.all_rows.end(), 0);
    const auto trunk = static_cast<int32_t>(input.num_trunk_rows());
    s.key_blocks.plan(input.positions, numbers(0, trunk), input.cache, input.mask,
                      input.gated_rows);
    while (s.branches.size() < input.branches.size()) s.branches.emplace_back(shape_.attention);
    int32_t first = trunk;
    for (size_t i = 0; i < input.branches.size(); ++i) {
        const auto last = first + static_cast<int32_t>(input.branches[i].num_rows);
        std::vector<int32_t> rows = numbers(0, static_cast<int32_t>(input.branches[i].num_seen));
        const std::vector<int32_t> own = numbers(first, last);
        rows.insert(rows.end(), own.begin(), own.end());
        s.branches[i].plan(input.positions, std::move(rows), input.cache, {}, {});
        first = last;
    }
    s.stores_at_once = input.store && !input.cache->holds_any(input.positions);
    // Without storing, a layer's keys and values are of no use to the next one.
    const bool keeps_layers = input.store && !s.stores_at_once;
    s.shadow_stride = keeps_layers ? active * shape_.kv_width() : 0;
    const int64_t layers = keeps_layers ? shape_.num_layers : 1;
    s.keys.resize(static_cast<size_t>(layers * active * shape_.kv_width()));
    s.values.resize(s.keys.size());
}

float* Denoiser::shadow_keys(int64_t layer, int64_t row) {
    return scratch_->keys.data() + layer * scratch_->shadow_stride + row * shape_.kv_width();
}

float* Denoiser::shadow_values(int64_t layer, int64_t row) {
    return scratch_->values.data() + layer * scratch_->shadow_stride + row * shape_.kv_width();
}

void Denoiser::store_row(const StepInput& input, int64_t layer, int64_t row) {
    input.cache->store(kernels_, layer, input.positions[static_cast<size_t>(row)],
                       shadow_keys(layer, row), shadow_values(layer, row));
}

// What the rows of trunk and branches see of each other and of the cache.
void Denoiser::attend(const Machine& machine, int64_t index, const StepInput& input) {
    Scratch& s = *scratch_;
    const int64_t width = shape_.query_width();
    int64_t first = 0;
    const auto run = [&](KeyBlocks& keys, int64_t num_rows) {
        const auto& blocks = keys.of_layer(index, input.cache, shadow_keys(index, 0),
                                           shadow_values(index, 0), machine);
        const std::vector<int32_t>& visible = keys.visible();
        s.attention.run(machine, s.queries.data() + first * width,
                        {visible.end() - num_rows, visible.end()}, blocks,
                        s.attended.data() + first * width);
        first += num_rows;
    };
    run(s.key_blocks, input.num_trunk_rows());
    for (size_t i = 0; i < input.branches.size(); ++i)
        run(s.branches[i], input.branches[i].num_rows);
}

void Denoiser::publish(const StepInput& input) {
    for (int64_t row = 0; row < input.num_kept(); ++row) {
        for (int64_t layer = 0; !scratch_->stores_at_once && layer < shape_.num_layers; ++layer)
            store_row(input, layer, row);
        input.cache->mark_valid(input.positions[static_cast<size_t>(row)]);
    }
}

}  // namespace edge

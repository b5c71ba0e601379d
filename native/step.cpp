#include "step.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace edge {
namespace {

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

void check_choices(const HeadOptions& head, int64_t vocab_size) {
    require(std::isfinite(head.temperature) && head.temperature >= 0.0f,
            "the temperature must be finite and not negative");
    require(head.top_p > 0.0f && head.top_p <= 1.0f, "top_p must be above 0 and at most 1");
    require(head.top_k >= 0, "top_k must not be negative");
    const int64_t choices = head.num_choices > 0 ? head.num_choices : vocab_size;
    std::vector<int32_t> forbidden = head.forbidden;
    std::sort(forbidden.begin(), forbidden.end());
    forbidden.erase(std::unique(forbidden.begin(), forbidden.end()), forbidden.end());
    const auto is_choice = [&](int32_t id) { return id >= 0 && id < choices; };
    require(std::count_if(forbidden.begin(), forbidden.end(), is_choice) < choices,
            "every token is forbidden, none is left to choose");
}

void check_bias(const LogitBias& bias, size_t num_rows, int64_t vocab_size) {
    require(bias.ids.size() == bias.values.size(), "a bias needs as many values as ids");
    require(!bias.starts.empty() || bias.ids.empty(), "a bias needs its rows' starts");
    if (bias.starts.empty()) return;
    require(bias.starts.size() == num_rows + 1 && bias.starts.front() == 0 &&
                bias.starts.back() == static_cast<int64_t>(bias.ids.size()) &&
                std::is_sorted(bias.starts.begin(), bias.starts.end()),
            "a bias's starts are one per head row and the number of its ids, ascending from 0");
    for (const int32_t id : bias.ids)
        require(id >= 0 && id < vocab_size, "a token id is outside the vocabulary");
    for (const float value : bias.values) require(std::isfinite(value), "a bias must be finite");
}

void check_guidance(const StepInput& input, int64_t vocab_size) {
    const Guidance& guidance = input.guidance;
    if (guidance.ids.empty()) return;
    require(guidance.ids.size() == input.ids.size(), "guidance needs as many ids as the step");
    require(input.cache == nullptr, "guidance works without a cache");
    require(std::isfinite(guidance.scale), "the guidance scale must be finite");
    for (const int32_t id : guidance.ids)
        require(id >= 0 && id < vocab_size, "a token id is outside the vocabulary");
}

// After check_branches: positions ascend in the trunk and, behind what it sees, in each branch.
bool ascend(const StepInput& input) {
    const auto ascends = [&](int64_t first, int64_t count, int64_t above) {
        for (int64_t row = first; row < first + count; ++row) {
            const int64_t position = input.positions[static_cast<size_t>(row)];
            if (position <= above) return false;
            above = position;
        }
        return true;
    };
    int64_t first = input.num_trunk_rows();
    bool sound = ascends(0, first, -1);
    for (const Branch& branch : input.branches) {
        const int64_t seen = input.positions[static_cast<size_t>(branch.num_seen - 1)];
        sound = sound && ascends(first, branch.num_rows, seen);
        first += branch.num_rows;
    }
    return sound;
}

void check_branches(const StepInput& input) {
    const auto rows = static_cast<int64_t>(input.ids.size());
    int64_t left = rows;
    for (const Branch& branch : input.branches) {
        require(branch.num_rows > 0 && branch.num_rows < left, "a branch has no rows, or all");
        left -= branch.num_rows;
    }
    for (const Branch& branch : input.branches)
        require(branch.num_seen > 0 && branch.num_seen <= left,
                "a branch sees at least one of the rows before the first, and no others");
    require(input.branches.empty() || input.guidance.ids.empty(), "branches cannot be guided");
    require(input.branches.empty() || !input.store ||
                (input.num_stored > 0 && input.num_stored <= left),
            "branches are never stored");
}

void check_gate(const StepInput& input, const DenoiserShape& shape) {
    const std::vector<int32_t>& rows = input.gated_rows;
    if (rows.empty()) return;
    require(shape.gate_rank > 0, "this denoiser gates no rows");
    for (size_t i = 0; i < rows.size(); ++i)
        require(rows[i] >= (i == 0 ? 0 : rows[i - 1] + 1) &&
                    rows[i] < static_cast<int64_t>(input.ids.size()),
                "gated rows must ascend and be active");
    require(input.guidance.ids.empty(), "gated rows cannot be guided");
    require(!input.store || (input.num_stored > 0 && input.num_stored <= rows.front()),
            "gated rows are never stored");
}

}  // namespace

int64_t StepInput::num_trunk_rows() const {
    auto rows = static_cast<int64_t>(ids.size());
    for (const Branch& branch : branches) rows -= branch.num_rows;
    return rows;
}

int64_t StepInput::num_kept() const {
    return num_stored > 0 ? num_stored : static_cast<int64_t>(ids.size());
}

int32_t StepInput::last_position() const {
    return *std::max_element(positions.begin(), positions.end());
}

void check_step(const StepInput& input, const DenoiserShape& shape) {
    require(!input.ids.empty() && input.ids.size() == input.positions.size(),
            "a step needs as many positions as ids, and at least one");
    for (size_t i = 0; i < input.ids.size(); ++i) {
        require(input.ids[i] >= 0 && input.ids[i] < shape.vocab_size,
                "a token id is outside the vocabulary");
        require(input.positions[i] >= 0 && input.positions[i] < shape.context_length,
                "a position is outside the model's context");
    }
    check_branches(input);
    require(ascend(input), "positions must ascend");
    for (size_t i = 0; i < input.head_rows.size(); ++i)
        require(input.head_rows[i] >= (i == 0 ? 0 : input.head_rows[i - 1]) &&
                    input.head_rows[i] < static_cast<int64_t>(input.ids.size()),
                "head rows must not descend and be active");
    check_gate(input, shape);
    require(input.mask.kind != AttentionMask::Kind::block || input.mask.block_length > 0,
            "a block mask needs a block length");
    check_choices(input.head, shape.vocab_size);
    check_bias(input.head.bias, input.head_rows.size(), shape.vocab_size);
    require(input.cache != nullptr || !input.store, "storing needs a cache");
    require(input.num_stored == 0 || (input.store && input.num_stored > 0 &&
                                      input.num_stored <= static_cast<int64_t>(input.ids.size())),
            "a number of stored rows goes with storing and is between 1 and the active rows");
    check_guidance(input, shape.vocab_size);
    if (input.cache == nullptr) return;
    require(input.cache->num_layers() == shape.num_layers &&
                input.cache->width() == shape.kv_width() &&
                input.cache->format() == shape.attention.format,
            "the cache was made for another denoiser");
    require(input.last_position() < input.cache->capacity(), "a position is beyond the cache");
}

}  // namespace edge

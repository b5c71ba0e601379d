#include "router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace edge {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

void to_softmax(const KernelTable& kernels, int64_t count, float* x) {
    const float highest = *std::max_element(x, x + count);
    for (int64_t i = 0; i < count; ++i) x[i] -= highest;
    kernels.exponentials(x, count, x);
    float total = 0.0f;
    for (int64_t i = 0; i < count; ++i) total += x[i];
    for (int64_t i = 0; i < count; ++i) x[i] /= total;
}

void to_sigmoid(const KernelTable& kernels, int64_t count, float* x) {
    for (int64_t i = 0; i < count; ++i) x[i] = 0.0f - x[i];
    kernels.exponentials(x, count, x);
    for (int64_t i = 0; i < count; ++i) x[i] = 1.0f / (1.0f + x[i]);
}

// The index of the largest, the first of equal ones, which then is out of the running.
int64_t take_largest(float* x, int64_t count) {
    const int64_t best = std::max_element(x, x + count) - x;
    x[best] = minus_infinity;
    return best;
}

// Puts experts of all but the best groups out of the running.
void keep_best_groups(const ExpertShape& shape, std::vector<float>& ranked) {
    const int64_t size = shape.num_experts / shape.num_groups;
    std::vector<float> groups;
    for (int64_t g = 0; g < shape.num_groups; ++g) {
        float best[2] = {};  // groups have at least two
        std::partial_sort_copy(ranked.begin() + g * size, ranked.begin() + (g + 1) * size, best,
                               best + 2, std::greater<float>());
        groups.push_back(best[0] + best[1]);
    }
    for (int64_t i = 0; i < shape.num_used_groups; ++i)
        take_largest(groups.data(), shape.num_groups);
    for (int64_t g = 0; g < shape.num_groups; ++g)
        if (groups[static_cast<size_t>(g)] != minus_infinity)
            std::fill_n(ranked.begin() + g * size, size, minus_infinity);
}

}  // namespace

bool choose_experts(const KernelTable& kernels, const ExpertShape& shape,
                    const std::vector<float>& bias, float* logits, int32_t* experts,
                    float* weights) {
    const int64_t count = shape.num_experts;
    const auto is_finite = [](float x) { return std::isfinite(x); };
    if (!std::all_of(logits, logits + count, is_finite)) return false;
    (shape.scores == ExpertScores::softmax ? to_softmax : to_sigmoid)(kernels, count, logits);
    std::vector<float> ranked(logits, logits + count);
    for (size_t i = 0; i < bias.size(); ++i) ranked[i] += bias[i];
    if (!std::all_of(ranked.begin(), ranked.end(), is_finite)) return false;
    if (shape.bias_counts) std::copy(ranked.begin(), ranked.end(), logits);
    if (shape.num_used_groups < shape.num_groups) keep_best_groups(shape, ranked);
    float total = 0.0f;
    for (int64_t i = 0; i < shape.num_used; ++i) {
        experts[i] = static_cast<int32_t>(take_largest(ranked.data(), count));
        weights[i] = logits[experts[i]];
        total += weights[i];
    }
    // As the published routers do, so that weights of nothing stay nothing.
    const float divisor = shape.renormalises ? total + 1e-20f : 1.0f;
    for (int64_t i = 0; i < shape.num_used; ++i) weights[i] = weights[i] / divisor * shape.scale;
    return true;
}

}  // namespace edge

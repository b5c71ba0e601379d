// Which experts a row takes and what each of them counts: pure functions of the router's logits.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace edge {

enum class ExpertScores { softmax, sigmoid };

// The experts of a mixture and how rows choose among them.
//
// A score is the softmax or the sigmoid of a logit. Chosen are the `num_used` largest sums of score
// and bias, only from the `num_used_groups` groups of neighbouring experts with the largest sums of
// their two best. They count by their scores, divided by the chosen ones' total where that is asked
// for, times `scale`.
struct ExpertShape {
    int64_t num_experts = 0;  // 0: no layer has any
    int64_t num_used = 0;
    int64_t size = 0;              // of an expert's hidden layer
    int64_t shared_size = 0;       // of what all rows go through beside theirs; 0: nothing
    int64_t num_dense_layers = 0;  // the first ones, without experts
    ExpertScores scores = ExpertScores::softmax;
    bool renormalises = false;
    bool bias_counts = false;  // weights are those of score and bias, not of the score alone
    float scale = 1.0f;
    int64_t num_groups = 1;
    int64_t num_used_groups = 1;

    bool are_in(int64_t layer) const { return num_experts > 0 && layer >= num_dense_layers; }
};

// Experts of a row [num_used], the best first, of equal ones the first; and what they count.
// `logits` [num_experts] are used up, `bias` is [num_experts] or empty. Returns false when a number
// is not finite.
bool choose_experts(const KernelTable& kernels, const ExpertShape& shape,
                    const std::vector<float>& bias, float* logits, int32_t* experts,
                    float* weights);

}  // namespace edge

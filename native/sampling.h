// How a token is drawn from a row of logits.
#pragma once

#include <cstdint>
#include <vector>

namespace edge {

// Additions to single logits, for head rows first to last: those of row r are entries starts[r] to
// before starts[r + 1].
struct LogitBias {
    std::vector<int32_t> starts;  // [head rows + 1], empty: nothing is added
    std::vector<int32_t> ids;
    std::vector<float> values;

    // Whether one of the row's additions is to an id of first..first+count-1.
    bool touches(int64_t row, int64_t first, int64_t count) const;
    // Make those additions to the logits of these ids.
    void add(int64_t row, int64_t first, int64_t count, float* logits) const;
};

// The distribution's figures in a HeadRow are the model's own, after the bias if there is one; the
// other options only decide which token is chosen.
struct HeadOptions {
    int64_t num_choices = 0;         // ids from here on are padding rows, never chosen
    std::vector<int32_t> forbidden;  // ids that are never chosen
    float temperature = 0.0f;        // 0: the sampled token is the first choice
    uint64_t seed = 0;
    uint32_t draw = 0;   // number of the denoising step within the request
    int64_t top_k = 0;   // draw among the k most probable tokens; 0: among all
    float top_p = 1.0f;  // then among the fewest whose probabilities reach top_p
    LogitBias bias;

    bool draws() const { return temperature > 0.0f; }
    bool truncates() const { return draws() && (top_k > 0 || top_p < 1.0f); }
};

struct DrawnToken {
    int32_t id;
    float logit;
    double score;  // logit / temperature + noise; the largest wins
};

// Give the ids first..first+count-1 that must not be chosen a logit of minus infinity.
void forbid(float* logits, int64_t first, int64_t count, const HeadOptions& options);

// Gumbel-max over ids first..first+count-1. The noise depends on (seed, draw, position, id) only.
DrawnToken draw(const float* logits, int64_t first, int64_t count, int32_t position,
                const HeadOptions& options);

// The same over a whole row, restricted by top_k and top_p of the tempered distribution.
DrawnToken draw_truncated(const float* logits, int64_t count, int32_t position,
                          const HeadOptions& options);

}  // namespace edge

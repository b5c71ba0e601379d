// Rotary position embedding (Su et al. 2021), half-split or with adjacent pairs.
#pragma once

#include <cstdint>
#include <vector>

namespace edge {

enum class RopePairs { halves, adjacent };

class Rope {
public:
    Rope(RopePairs pairs, int64_t rotary_dims, double theta)
        : pairs_(pairs), rotary_dims_(rotary_dims), theta_(theta) {}

    // Make the table cover positions below `end`.
    void extend(int64_t end);

    // Rotate num_heads heads of head_dim values in place; the position must be covered.
    void rotate(float* heads, int64_t num_heads, int64_t head_dim, int64_t position) const;

private:
    RopePairs pairs_;
    int64_t rotary_dims_;
    double theta_;
    std::vector<float> cosines_;  // [positions][rotary_dims / 2]
    std::vector<float> sines_;
};

}  // namespace edge

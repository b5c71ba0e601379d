// Rotary position embedding (Su et al. 2021), half-split or with adjacent pairs.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace edge {

enum class RopePairs { halves, adjacent };

// Queries from position `length` on are multiplied by 1 + beta * ln(1 + position / length).
struct QueryScale {
    double beta = 0.0;
    int64_t length = 1;
    float at(int64_t position) const;
};

class Rope {
public:
    // `frequencies` in radians per position, one per pair; none: those of `theta`. `magnitude`
    // multiplies what is rotated.
    Rope(RopePairs pairs, int64_t rotary_dims, double theta, std::vector<double> frequencies,
         double magnitude)
        : pairs_(pairs),
          rotary_dims_(rotary_dims),
          theta_(theta),
          frequencies_(std::move(frequencies)),
          magnitude_(magnitude) {}

    // Make the table cover positions below `end`.
    void extend(int64_t end);

    // Rotate num_heads heads of head_dim values in place; the position must be covered.
    void rotate(float* heads, int64_t num_heads, int64_t head_dim, int64_t position) const;

private:
    int64_t num_pairs() const { return rotary_dims_ / 2; }

    RopePairs pairs_;
    int64_t rotary_dims_;
    double theta_;
    std::vector<double> frequencies_;
    double magnitude_;
    std::vector<float> cosines_;  // [positions][pairs]
    std::vector<float> sines_;
};

}  // namespace edge

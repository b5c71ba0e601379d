// What only some rows of a step get: an update of each product, low in rank. The others run the
// untouched weights, bit by bit. (Gated LoRA: Samragh et al., arXiv:2507.11851.)
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "linear.h"
#include "tensors.h"
#include "weights.h"

namespace edge {

// The product of a matrix is raised by `b` times (`a` times its input).
struct LowRank {
    WeightMatrix a;  // [rank, depth]
    WeightMatrix b;  // [num_outputs, rank]

    // None where the file has none for the matrix `name`.weight. Throws FileFault for one of the
    // two alone, a rank beyond `most_ranks`, and like TensorSource::take.
    static std::optional<LowRank> take(TensorSource& source, const std::string& name,
                                       int64_t num_outputs, int64_t depth, int64_t most_ranks);
};

// The updates of one layer.
struct LayerGate {
    std::optional<LowRank> query, key, value, attention_output, gate, up, down;
};

struct Raised {
    const std::optional<LowRank>* update;
    float* out;  // [rows][out_stride], the product that is raised
    int64_t out_stride;
};

// Makes updates; reused from product to product.
class Gate {
public:
    // Raise the products of `input` in the given rows. Returns false for non-finite numbers.
    bool raise(const Machine& machine, const LinearInput& input, const std::vector<int32_t>& rows,
               std::initializer_list<Raised> products);

private:
    bool raise(const Machine& machine, const std::vector<int32_t>& rows, const Raised& product);

    LinearInput input_;  // the gated rows
    LinearInput low_;    // [gated rows, rank]
    std::vector<float> low_values_, deltas_;
};

}  // namespace edge

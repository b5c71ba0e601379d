// Quantizing with error compensation, after Frantar et al., "GPTQ" (arXiv:2210.17323): a weight's
// rounding error is made good, as far as the inputs allow, by the weights not yet rounded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor_type.h"

namespace edge {

// The upper triangular factor U [cols][cols] of the inverse second moments of a matrix's inputs,
// UᵀU = (XᵀX)⁻¹, or a diagonal block of it. An error e at column i, all later columns doing their
// best about it, costs (e / U_ii)²: its importance.
struct Compensation {
    // `factor` is read while this lives. Throws std::invalid_argument for a diagonal that is not
    // positive.
    Compensation(const float* factor, int64_t num_cols);

    const float* values;
    int64_t cols;
    std::vector<double> importance;  // [cols]
};

// One row of int8 or int4, of which the columns of `factor`, whole groups, are quantized in order.
// `values` [cols] are changed; `errors` [cols] are (value - stored) / U_ii, which times the rows of
// U beyond these columns are to be taken off the columns to come.
void quantize_compensated(const StoredType& type, const Compensation& factor, float* values,
                          std::byte* out, float* errors);

// The same for some columns of an int8 row whose one scale is known; `out` gets no scale.
void quantize_compensated(float scale, const Compensation& factor, float* values, std::byte* out,
                          float* errors);

}  // namespace edge

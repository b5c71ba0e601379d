// Dot products by USDOT, which multiplies unsigned bytes with signed bytes, as panels and
// activations are. Needs FEAT_I8MM.
//
// SMMLA and USMMLA do twice the products per instruction, but on pairs of rows and of columns with
// eight k: both operands would have to be zipped, and sums unzipped, around every group.
#pragma once

#include "kernels/neon_dotprod/lanes.h"

namespace edge {
namespace {

template <int bits>
inline IntLanes start(int32_t folded) {
    return splat_int(folded);
}

// Four columns' weights with the four activations of one row out of four.
template <int bits, int row>
inline int32x4_t dot_row(int32x4_t acc, uint8x16_t w, int8x16_t rows) {
    return vusdotq_laneq_s32(acc, w, rows, row);
}

}  // namespace
}  // namespace edge

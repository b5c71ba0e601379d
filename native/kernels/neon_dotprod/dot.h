// Dot products by SDOT, which multiplies signed bytes with signed bytes. Needs FEAT_DotProd.
#pragma once

#include "kernels/neon_dotprod/lanes.h"

namespace edge {
namespace {

// 8-bit weights are made signed by flipping their top bit, so that no zero point is left to fold;
// nibbles fit as they are.
template <int bits>
inline IntLanes start(int32_t folded) {
    return splat_int(bits == 8 ? 0 : folded);
}
template <int bits>
inline int8x16_t as_signed(uint8x16_t w) {
    return vreinterpretq_s8_u8(bits == 8 ? veorq_u8(w, vdupq_n_u8(128)) : w);
}

// Four columns' weights with the four activations of one row out of four.
template <int bits, int row>
inline int32x4_t dot_row(int32x4_t acc, uint8x16_t w, int8x16_t rows) {
    return vdotq_laneq_s32(acc, as_signed<bits>(w), rows, row);
}

}  // namespace
}  // namespace edge

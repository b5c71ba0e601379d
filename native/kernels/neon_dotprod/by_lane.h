// Lines against the activations of several rows, which a dot product picks out of one register;
// included by each NEON table after its dot.h.
#pragma once

namespace edge {
namespace {

// Sixteen accumulators, and one register for all rows' activations. More rows leave too few of the
// 32 registers for weights: compilers then spill accumulators within the loop.
constexpr int tile_rows = 4;

template <int bits, int row>
inline IntLanes dot_line(IntLanes acc, Line w, int8x16_t rows) {
    return {dot_row<bits, row>(acc.a, w.a, rows), dot_row<bits, row>(acc.b, w.b, rows),
            dot_row<bits, row>(acc.c, w.c, rows), dot_row<bits, row>(acc.d, w.d, rows)};
}

template <int bits>
inline IntLanes dot4(IntLanes acc, Line w, const int8_t* activations) {
    int32_t four;
    std::memcpy(&four, activations, sizeof four);
    return dot_line<bits, 0>(acc, w, vreinterpretq_s8_s32(vdupq_n_s32(four)));
}

inline int8x16_t load_two_rows(const int8_t* activations) {
    int64_t eight;
    std::memcpy(&eight, activations, sizeof eight);
    return vreinterpretq_s8_s64(vdupq_n_s64(eight));
}

template <int bits, int R, int first = 0>
inline void dot4_rows(StepSums<bits> (&acc)[R], Line w, const int8_t* activations) {
    constexpr int rest = R - first;
    const int8_t* a = activations + first * 4;
    if constexpr (rest >= 4) {
        const int8x16_t rows = vld1q_s8(a);
        acc[first] = dot_line<bits, 0>(acc[first], w, rows);
        acc[first + 1] = dot_line<bits, 1>(acc[first + 1], w, rows);
        acc[first + 2] = dot_line<bits, 2>(acc[first + 2], w, rows);
        acc[first + 3] = dot_line<bits, 3>(acc[first + 3], w, rows);
        dot4_rows<bits, R, first + 4>(acc, w, activations);
    } else if constexpr (rest >= 2) {
        const int8x16_t rows = load_two_rows(a);
        acc[first] = dot_line<bits, 0>(acc[first], w, rows);
        acc[first + 1] = dot_line<bits, 1>(acc[first + 1], w, rows);
        dot4_rows<bits, R, first + 2>(acc, w, activations);
    } else if constexpr (rest == 1) {
        acc[first] = dot4<bits>(acc[first], w, a);
    }
}

}  // namespace
}  // namespace edge

// Quantized weights against activations in bfloat16, for matrices whose inputs int8 does not serve;
// included by each ISA's table after its halves. Weights less their zero point are whole numbers
// of at most eight bits, which bfloat16 holds exactly.
#pragma once

#include "kernels/unrolled.h"

namespace edge {
namespace {

float halve_row(const float* x, int64_t depth, void* place, int64_t rows) {
    Half* pairs = static_cast<Half*>(place);
    for_lanes(depth, [&](int64_t d, int n) {
        Half halves[16];
        store_halves(halves, load_run(x + d, n));
        for (int i = 0; i < n; i += 2)
            std::memcpy(pairs + (d + i) * rows, halves + i, 2 * sizeof(Half));
    });
    return largest_magnitude(x, depth);
}

void sum_halves(const float* x, int64_t depth, int64_t group, float* sums, int64_t stride) {
    for (int64_t first = 0; first < depth; first += group, sums += stride) {
        Lanes total = zero();
        for_lanes(group, [&](int64_t i, int n) {
            total = add(total, round_bf16(load_run(x + first + i, n)));
        });
        *sums = sum(total);
    }
}

// Four consecutive k of a line, two pairs of them, against R rows.
template <int R>
inline void add_pairs(Line line, Lanes offset, const Half* rows, Lanes (&acc)[R]) {
    const Pairs first =
        pairs_of(sub(byte_as_float<0>(line), offset), sub(byte_as_float<1>(line), offset));
    const Pairs second =
        pairs_of(sub(byte_as_float<2>(line), offset), sub(byte_as_float<3>(line), offset));
    unrolled<R>([&](int r) { acc[r] = dot2(acc[r], first, rows + 2 * r); });
    unrolled<R>([&](int r) { acc[r] = dot2(acc[r], second, rows + 2 * R + 2 * r); });
}

template <int bits, bool has_minima, int R>
void gemm_halves_rows(const Panel& panel, const HalvesTile& tile, const OutputTile& out) {
    const Lanes offset = splat(static_cast<float>(zero_point<bits, has_minima>));
    Lanes total[R];
    unrolled<R>([&](int r) { total[r] = zero(); });
    const uint8_t* lines = panel.lines;
    const Half* rows = static_cast<const Half*>(tile.values);
    const float* sums = tile.group_sums;
    const int64_t num_groups = panel.depth / panel.group;
    for (int64_t g = 0; g < num_groups; ++g, sums += R) {
        Lanes acc[R];
        unrolled<R>([&](int r) { acc[r] = zero(); });
        for (int64_t k = 0; k < panel.group; k += depth_per_line<bits>, lines += line_bytes) {
            const Line line = load_line(lines);
            if constexpr (bits == 8) {
                add_pairs(line, offset, rows, acc);
            } else {
                add_pairs(low_nibbles(line), offset, rows, acc);
                add_pairs(high_nibbles(line), offset, rows + 4 * R, acc);
            }
            rows += depth_per_line<bits> * R;
        }
        const Lanes scale = scale_of(panel.scales, panel, g);
        unrolled<R>([&](int r) { total[r] = fma(acc[r], scale, total[r]); });
        if constexpr (has_minima) {
            const Lanes minimum = sub(zero(), scale_of(panel.minima, panel, g));
            unrolled<R>([&](int r) { total[r] = fma(splat(sums[r]), minimum, total[r]); });
        }
    }
    unrolled<R>([&](int r) { store_columns(out, r, total[r]); });
}

template <int bits, bool has_minima, int R = tile_rows>
void gemm_halves_tile(const Panel& panel, const HalvesTile& tile, const OutputTile& out) {
    if constexpr (R >= 1) {
        if (tile.rows == R) return gemm_halves_rows<bits, has_minima, R>(panel, tile, out);
        return gemm_halves_tile<bits, has_minima, R - 1>(panel, tile, out);
    }
}

template <int bits>
void gemm_halves(const Panel& panel, const HalvesTile& tile, const OutputTile& out) {
    if (panel.minima.halves != nullptr) return gemm_halves_tile<bits, true>(panel, tile, out);
    gemm_halves_tile<bits, false>(panel, tile, out);
}

}  // namespace
}  // namespace edge

// Keys and values in bfloat16, accumulated in float. Two products are added as VDPBF16PS does it:
// the second one of a pair first, each with one rounding, so that fused multiply-adds give the
// same bits (numbers below 2^-126 count as zero in operands, and may in sums).
#pragma once

#include "kernels/unrolled.h"

namespace edge {
namespace {

template <int R>
class Bf16Keys {
public:
    Bf16Keys(const AttentionTile& tile, const Scratch<R>& scratch) {
        for (int r = 0; r < R; ++r)
            for_lanes(tile.head_dim, [&](int64_t d, int n) {
                Half halves[16];
                store_halves(halves, load_run(tile.queries[r] + d, n));
                Half* pairs = queries(scratch) + d * R + 2 * r;
                for (int i = 0; i < 16; i += 2)
                    std::memcpy(pairs + i * R, halves + i, 2 * sizeof(Half));
            });
    }

    void score(const AttentionTile& tile, const KeyBlock* blocks, int num_blocks,
               const Scratch<R>& scratch) const {
        const Half* rows = queries(scratch);
        const int64_t num_pairs = (tile.head_dim + 1) / 2;
        const Lanes scale = splat(tile.scale * log2_e);
        for (int b = 0; b < num_blocks; ++b) {
            const auto* lines = static_cast<const uint8_t*>(blocks[b].keys);
            Lanes acc[R];
            unrolled<R>([&](int r) { acc[r] = zero(); });
            for (int64_t i = 0; i < num_pairs; ++i)
                add_pair<2>(acc, lines + i * line_bytes, rows + 2 * i * R);
            float* place = scratch.scores + b * block_keys;
            unrolled<R>([&](int r) { store(place + r * span_keys, mul(acc[r], scale)); });
        }
    }

    void take(int r, int first, Lanes sixteen, const Scratch<R>& scratch) const {
        store_halves(weights(scratch) + r * span_keys + first, sixteen);
    }

    void mix(const AttentionTile& tile, const KeyBlock* blocks, int num_blocks,
             const Scratch<R>& scratch, const Lanes (&shrinkage)[R]) const {
        constexpr int block_pairs = block_keys / 2;
        for (int64_t d = 0; d < tile.head_dim; d += 16) {
            const int n = static_cast<int>(tile.head_dim - d < 16 ? tile.head_dim - d : 16);
            Lanes acc[R];
            unrolled<R>(
                [&](int r) { acc[r] = mul(load_run(tile.outputs[r] + d, n), shrinkage[r]); });
            const Half* rows = weights(scratch);
            for (int b = 0; b < num_blocks; ++b, rows += block_keys) {
                const auto* lines = static_cast<const uint8_t*>(blocks[b].values) +
                                    d / 16 * block_pairs * line_bytes;
                for (int i = 0; i < block_pairs; ++i)
                    add_pair<span_keys>(acc, lines + i * line_bytes, rows + 2 * i);
            }
            unrolled<R>([&](int r) { store_run(tile.outputs[r] + d, acc[r], n); });
        }
    }

private:
    // Queries [pairs][R][2], weights [R][span_keys].
    static Half* queries(const Scratch<R>& s) { return reinterpret_cast<Half*>(s.queries); }
    static Half* weights(const Scratch<R>& s) { return reinterpret_cast<Half*>(s.weights); }

    // `stride` halves lie between the pairs of two rows.
    template <int stride>
    static void add_pair(Lanes (&acc)[R], const uint8_t* line, const Half* rows) {
        const Pairs pairs = load_pairs(line);
        unrolled<R>([&](int r) { acc[r] = dot2(acc[r], pairs, rows + r * stride); });
    }
};

}  // namespace
}  // namespace edge

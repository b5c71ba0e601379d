// Keys and values in bfloat16, accumulated in float. Two products are added as VDPBF16PS does it:
// the second one of a pair first, each with one rounding, so that fused multiply-adds give the
// same bits (numbers below 2^-126 count as zero in operands, and may in sums).
#pragma once

#include "kernels/unrolled.h"

namespace edge {
namespace {

inline uint16_t bits_of_half(uint16_t half) { return half; }
inline uint16_t bits_of_half(float half) {
    uint32_t bits;
    std::memcpy(&bits, &half, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
}

void round_halves(const float* x, int64_t count, uint16_t* out) {
    for_lanes(count, [&](int64_t i, int n) {
        Half halves[16];
        store_halves(halves, load_run(x + i, n));
        for (int k = 0; k < n; ++k) out[i + k] = bits_of_half(halves[k]);
    });
}

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

    void score(const AttentionTile& tile, const Span& span, const Scratch<R>& scratch) const {
        const Half* rows = queries(scratch);
        const int64_t num_pairs = (tile.head_dim + 1) / 2;
        const Lanes scale = splat(tile.scale * log2_e);
        for (int b = 0; b < span.num_blocks; ++b) {
            Lanes acc[R];
            unrolled<R>([&](int r) { acc[r] = zero(); });
            for (int64_t i = 0; i < num_pairs; ++i) {
                fetch_ahead(span.values(b) + i * line_bytes);
                add_pair<2>(acc, span.keys(b) + i * line_bytes, rows + 2 * i * R);
            }
            float* place = scratch.scores + b * block_keys;
            unrolled<R>([&](int r) { store(place + r * span_keys, mul(acc[r], scale)); });
        }
    }

    void take(int r, int first, Lanes sixteen, const Scratch<R>& scratch) const {
        store_halves(weights(scratch) + r * span_keys + first, sixteen);
    }

    void mix(const Span& span, const Scratch<R>& scratch, const Lanes (&shrinkage)[R]) const {
        constexpr int block_pairs = block_keys / 2;
        for (int64_t d = 0; d < scratch.width; d += 16) {
            float* mixed = scratch.mixed + d;
            Lanes acc[R];
            unrolled<R>(
                [&](int r) { acc[r] = mul(load(mixed + r * scratch.width), shrinkage[r]); });
            const Half* rows = weights(scratch);
            for (int b = 0; b < span.num_blocks; ++b, rows += block_keys) {
                int64_t line = d / 16 * block_pairs * line_bytes;
                for (int i = 0; i < block_pairs; ++i, line += line_bytes) {
                    fetch_ahead(span.next_keys(b) + line);
                    add_pair<span_keys>(acc, span.values(b) + line, rows + 2 * i);
                }
            }
            unrolled<R>([&](int r) { store(mixed + r * scratch.width, acc[r]); });
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

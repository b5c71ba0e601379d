// Keys and values as unsigned bytes around 128, with a scale per key and per value of a head.
// Queries, and a span's weights times the values' scales, are rounded to int8; products are exact.
#pragma once

#include "kernels/unrolled.h"

namespace edge {
namespace {

template <int R>
class Int8Keys {
public:
    Int8Keys(const AttentionTile& tile, const Scratch<R>& scratch)
        : num_quads_((tile.head_dim + 3) / 4) {
        unrolled<R>([&](int r) {
            query_scales_[r] = tile.scale * log2_e *
                               quantize_operand(tile.queries[r], tile.head_dim, r, queries(scratch),
                                                query_starts_);
        });
    }

    void score(const AttentionTile&, const KeyBlock* blocks, int num_blocks,
               const Scratch<R>& scratch) const {
        for (int b = 0; b < num_blocks; ++b) {
            const auto* lines = static_cast<const uint8_t*>(blocks[b].keys);
            IntLanes acc[R];
            unrolled<R>([&](int r) { acc[r] = start<8>(query_starts_[r]); });
            add_quads(acc, lines, queries(scratch), num_quads_);
            const Lanes scales = load_scales(lines + num_quads_ * line_bytes);
            float* place = scratch.scores + b * block_keys;
            unrolled<R>([&](int r) {
                store(place + r * span_keys,
                      mul(mul(to_float(acc[r]), scales), splat(query_scales_[r])));
            });
        }
    }

    void take(int r, int first, Lanes sixteen, const Scratch<R>& scratch) const {
        store(scratch.scores + r * span_keys + first, sixteen);
    }

    void mix(const AttentionTile& tile, const KeyBlock* blocks, int num_blocks,
             const Scratch<R>& scratch, const Lanes (&shrinkage)[R]) {
        quantize_weights(tile, blocks, num_blocks, scratch);
        for_lanes(tile.head_dim, [&](int64_t d, int n) {
            IntLanes acc[R];
            unrolled<R>([&](int r) { acc[r] = start<8>(weight_starts_[r]); });
            for (int b = 0; b < num_blocks; ++b) {
                const auto* values = static_cast<const uint8_t*>(blocks[b].values);
                add_quads(acc, values + d / 16 * block_quads * line_bytes,
                          weights(scratch) + b * block_keys * R, block_quads);
            }
            unrolled<R>([&](int r) {
                float* place = tile.outputs[r] + d;
                const Lanes before = mul(load_run(place, n), shrinkage[r]);
                store_run(place, fma(to_float(acc[r]), splat(weight_scales_[r]), before), n);
            });
        });
    }

private:
    static constexpr int block_quads = block_keys / 4;

    // [quads][R][4]
    static int8_t* queries(const Scratch<R>& s) { return reinterpret_cast<int8_t*>(s.queries); }
    static int8_t* weights(const Scratch<R>& s) { return reinterpret_cast<int8_t*>(s.weights); }
    static Lanes load_scales(const uint8_t* line) {
        return load(reinterpret_cast<const float*>(line));
    }

    void quantize_weights(const AttentionTile& tile, const KeyBlock* blocks, int num_blocks,
                          const Scratch<R>& scratch) {
        const int64_t lines = (tile.head_dim + 15) / 16 * block_quads;
        for (int r = 0; r < R; ++r) {
            float* row = scratch.scores + r * span_keys;
            for (int b = 0; b < num_blocks; ++b) {
                const auto* values = static_cast<const uint8_t*>(blocks[b].values);
                const Lanes scales = load_scales(values + lines * line_bytes);
                store(row + b * block_keys, mul(load(row + b * block_keys), scales));
            }
            weight_scales_[r] =
                quantize_operand(row, num_blocks * block_keys, r, weights(scratch), weight_starts_);
        }
    }

    // Row r of the operands; its start is what folds the zero point 128.
    static float quantize_operand(const float* x, int64_t count, int r, int8_t* operands,
                                  int32_t (&starts)[R]) {
        starts[r] = 0;
        return quantize(x, count, operands + r * 4, R * 4, max_run,
                        [&](int32_t total) { starts[r] -= 128 * total; });
    }

    static void add_quads(IntLanes (&acc)[R], const uint8_t* lines, const int8_t* operands,
                          int64_t num_quads) {
        for (int64_t i = 0; i < num_quads; ++i)
            add_line(acc, load_line(lines + i * line_bytes), operands + i * R * 4);
    }
    static void add_line(IntLanes (&acc)[R], Line line, const int8_t* operands) {
        if constexpr (steps_have_sums) {
            StepSums<8> sums[R];
            unrolled<R>([&](int r) { sums[r] = begin_step<8>(acc[r]); });
            dot4_rows<8>(sums, line, operands);
            unrolled<R>([&](int r) { acc[r] = end_step<8>(acc[r], sums[r]); });
        } else {
            dot4_rows<8>(acc, line, operands);
        }
    }

    int64_t num_quads_;
    int32_t query_starts_[R];
    float query_scales_[R];
    int32_t weight_starts_[R];
    float weight_scales_[R];
};

}  // namespace
}  // namespace edge

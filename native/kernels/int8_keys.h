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

    void score(const AttentionTile&, const Span& span, const Scratch<R>& scratch) const {
        for (int b = 0; b < span.num_blocks; ++b) {
            IntLanes acc[R];
            unrolled<R>([&](int r) { acc[r] = start<8>(query_starts_[r]); });
            add_quads(acc, span.keys(b), queries(scratch), num_quads_, span.values(b));
            const Lanes scales = load_scales(span.keys(b) + num_quads_ * line_bytes);
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

    void mix(const Span& span, const Scratch<R>& scratch, const Lanes (&shrinkage)[R]) {
        quantize_weights(span, scratch);
        for_lanes(scratch.width, [&](int64_t d, int) {
            IntLanes acc[R];
            unrolled<R>([&](int r) { acc[r] = start<8>(weight_starts_[r]); });
            const int64_t line = d / 16 * block_quads * line_bytes;
            for (int b = 0; b < span.num_blocks; ++b)
                add_quads(acc, span.values(b) + line, weights(scratch) + b * block_keys * R,
                          block_quads, span.next_keys(b) + line);
            unrolled<R>([&](int r) {
                float* place = scratch.mixed + r * scratch.width + d;
                const Lanes before = mul(load(place), shrinkage[r]);
                store(place, fma(to_float(acc[r]), splat(weight_scales_[r]), before));
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

    void quantize_weights(const Span& span, const Scratch<R>& scratch) {
        const int64_t lines = scratch.width / 16 * block_quads;
        for (int r = 0; r < R; ++r) {
            float* row = scratch.scores + r * span_keys;
            for (int b = 0; b < span.num_blocks; ++b) {
                const Lanes scales = load_scales(span.values(b) + lines * line_bytes);
                store(row + b * block_keys, mul(load(row + b * block_keys), scales));
            }
            weight_scales_[r] = quantize_operand(row, span.num_blocks * block_keys, r,
                                                 weights(scratch), weight_starts_);
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
                          int64_t num_quads, const uint8_t* ahead) {
        for (int64_t i = 0; i < num_quads; ++i) {
            fetch_ahead(ahead + i * line_bytes);
            add_line(acc, load_line(lines + i * line_bytes), operands + i * R * 4);
        }
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

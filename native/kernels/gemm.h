// Matrix products on 16 lanes; included by each ISA's table after its lanes.h.
#pragma once

#include "kernels/unrolled.h"

namespace edge {
namespace {

inline Lanes load_weights(const float* p) { return load(p); }
inline Lanes load_weights_first(const float* p, int n) { return load_first(p, n); }

struct F16 {
    uint16_t bits;
};
inline const uint16_t* bits_of(const F16* p) { return reinterpret_cast<const uint16_t*>(p); }
inline Lanes load_weights(const F16* p) { return load_f16(bits_of(p)); }
inline Lanes load_weights_first(const F16* p, int n) { return load_f16_first(bits_of(p), n); }

struct Bf16 {
    uint16_t bits;
};
inline const uint16_t* bits_of(const Bf16* p) { return reinterpret_cast<const uint16_t*>(p); }
inline Lanes load_weights(const Bf16* p) { return load_bf16(bits_of(p)); }
inline Lanes load_weights_first(const Bf16* p, int n) { return load_bf16_first(bits_of(p), n); }

// Dot products of R rows with C stored weight rows, the depth along the lanes.
template <int R, int C, typename Stored>
inline void dot_tile(const Stored* weights, int64_t depth, const float* rows, int64_t row_stride,
                     float* out, int64_t out_stride) {
    Lanes acc[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) acc[r][c] = zero();
    const auto accumulate = [&](auto load_row, auto load_weight) {
        Lanes a[R];
        for (int r = 0; r < R; ++r) a[r] = load_row(rows + r * row_stride);
        for (int c = 0; c < C; ++c) {
            const Lanes w = load_weight(weights + c * depth);
            for (int r = 0; r < R; ++r) acc[r][c] = fma(a[r], w, acc[r][c]);
        }
    };
    int64_t k = 0;
    for (; k + 16 <= depth; k += 16)
        accumulate([k](const float* p) { return load(p + k); },
                   [k](const Stored* p) { return load_weights(p + k); });
    if (const int rest = static_cast<int>(depth - k); rest > 0)
        accumulate([=](const float* p) { return load_first(p + k, rest); },
                   [=](const Stored* p) { return load_weights_first(p + k, rest); });
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) out[r * out_stride + c] = sum(acc[r][c]);
}

template <int R, typename Stored>
void dot_rows_with_columns(const Stored* weights, int64_t depth, const float* rows,
                           int64_t row_stride, int64_t cols, float* out, int64_t out_stride) {
    int64_t c = 0;
    for (; c + dot_cols <= cols; c += dot_cols)
        dot_tile<R, dot_cols>(weights + c * depth, depth, rows, row_stride, out + c, out_stride);
    for (; c < cols; ++c)
        dot_tile<R, 1>(weights + c * depth, depth, rows, row_stride, out + c, out_stride);
}

template <typename Stored>
void gemm_stored(const Stored* weights, int64_t depth, const FloatRows& rows, int64_t first,
                 int64_t last, float* out, int64_t out_stride) {
    weights += first * depth;
    out += first;
    int r = 0;
    for (; r + dot_rows <= rows.rows; r += dot_rows)
        dot_rows_with_columns<dot_rows>(weights, depth, rows.data + r * rows.stride, rows.stride,
                                        last - first, out + r * out_stride, out_stride);
    for (; r < rows.rows; ++r)
        dot_rows_with_columns<1>(weights, depth, rows.data + r * rows.stride, rows.stride,
                                 last - first, out + r * out_stride, out_stride);
}

void gemm_float(const FloatWeights& weights, const FloatRows& rows, int64_t first, int64_t last,
                float* out, int64_t out_stride) {
    const auto run = [&](const auto* stored) {
        gemm_stored(stored, weights.depth, rows, first, last, out, out_stride);
    };
    switch (weights.format) {
        case FloatFormat::f32: return run(static_cast<const float*>(weights.data));
        case FloatFormat::f16: return run(static_cast<const F16*>(weights.data));
        case FloatFormat::bf16: return run(static_cast<const Bf16*>(weights.data));
    }
}

// Brings a line into the second-level cache; it need not be mapped.
inline void fetch_ahead(const uint8_t* line) { __builtin_prefetch(line, 0, 2); }

template <int bits>
constexpr int depth_per_line = bits == 8 ? 4 : 8;
template <int bits, bool has_minima>
constexpr int32_t zero_point = bits == 8    ? 128
                               : has_minima ? 0
                                            : 8;

inline Lanes scale_of(const PanelScales& scales, const Panel& panel, int64_t group) {
    if (scales.whole == nullptr) return load_f16(scales.halves + group * panel_cols);
    const int64_t block = group * panel.group / block_depth;
    return mul(load_f16(scales.halves + block * panel_cols),
               load_int8(scales.whole + group * panel_cols));
}

inline void store_columns(const OutputTile& out, int row, Lanes values) {
    float* place = out.data + row * out.stride;
    if (out.cols == panel_cols) {
        store(place, values);
    } else {
        store_first(place, values, out.cols);
    }
}

template <int bits, int R, int step>
inline void add_lines(const uint8_t* lines, const int8_t* activations, StepSums<bits> (&acc)[R]) {
    unrolled<step / depth_per_line<bits>>([&](int i) {
        const Line line = load_line(lines + i * line_bytes);
        if constexpr (bits == 8) {
            dot4_rows<8>(acc, line, activations + i * R * 4);
        } else {
            const int8_t* a = activations + i * 2 * R * 4;
            dot4_rows<4>(acc, low_nibbles(line), a);
            dot4_rows<4>(acc, high_nibbles(line), a + R * 4);
        }
    });
}

// `step` consecutive k of one panel against R quantized rows; the sums are exact integers.
template <int bits, int R, int step>
inline void dot_step(const uint8_t* lines, const int8_t* activations, IntLanes (&sums)[R]) {
    if constexpr (steps_have_sums) {
        StepSums<bits> acc[R];
        for (int r = 0; r < R; ++r) acc[r] = begin_step<bits>(sums[r]);
        add_lines<bits, R, step>(lines, activations, acc);
        for (int r = 0; r < R; ++r) sums[r] = end_step<bits>(sums[r], acc[r]);
    } else {
        add_lines<bits, R, step>(lines, activations, sums);
    }
}

template <int bits, bool has_minima, int step, int R>
void gemm_int_rows(const Panel& panel, const QuantizedTile& tile, const OutputTile& out) {
    constexpr int step_bytes = step / depth_per_line<bits> * line_bytes;
    constexpr bool folds = zero_point<bits, has_minima> != 0;
    constexpr float per_minimum = folds ? 1.0f / zero_point<bits, has_minima> : -1.0f;
    Lanes total[R];
    unrolled<R>([&](int r) { total[r] = zero(); });
    const uint8_t* lines = panel.lines;
    const int8_t* values = tile.values;
    const int32_t* sums = tile.group_sums;
    const uint8_t* ahead = panel.ahead.lines;
    const int64_t num_groups = panel.depth / panel.group;
    for (int64_t g = 0; g < num_groups; ++g, sums += R) {
        IntLanes acc[R];
        unrolled<R>([&](int r) { acc[r] = start<bits>(folds ? sums[r] : 0); });
        int64_t rest = panel.group;
        do {
            for (int i = 0; i < panel.ahead.per_step; ++i, ahead += line_bytes) fetch_ahead(ahead);
            dot_step<bits, R, step>(lines, values, acc);
            lines += step_bytes;
            values += step * R;
            rest -= step;
        } while (rest > 0);
        const Lanes scale = scale_of(panel.scales, panel, g);
        unrolled<R>([&](int r) { total[r] = fma(to_float(acc[r]), scale, total[r]); });
        if constexpr (has_minima) {
            const Lanes minimum = mul(scale_of(panel.minima, panel, g), splat(per_minimum));
            unrolled<R>([&](int r) { total[r] = fma(splat_whole(sums[r]), minimum, total[r]); });
        }
    }
    unrolled<R>([&](int r) { store_columns(out, r, mul(total[r], splat(tile.scales[r]))); });
}

template <int bits, bool has_minima, int step, int R = tile_rows>
void gemm_int_tile(const Panel& panel, const QuantizedTile& tile, const OutputTile& out) {
    if constexpr (R >= 1) {
        if (tile.rows == R) return gemm_int_rows<bits, has_minima, step, R>(panel, tile, out);
        return gemm_int_tile<bits, has_minima, step, R - 1>(panel, tile, out);
    }
}

template <int bits>
void gemm_int(const Panel& panel, const QuantizedTile& tile, const OutputTile& out) {
    if (panel.minima.halves != nullptr)
        return gemm_int_tile<bits, true, depth_step>(panel, tile, out);
    if constexpr (bits == 8)
        if (panel.group < depth_step) return gemm_int_tile<bits, false, sum_step>(panel, tile, out);
    gemm_int_tile<bits, false, depth_step>(panel, tile, out);
}

// Adds four consecutive k of a line to R rows' accumulators.
template <int R>
inline void add_four(Line line, Lanes offset, const float* rows, int64_t stride, Lanes (&acc)[R]) {
    const auto add_one = [&](Lanes weight, int k) {
        const Lanes w = sub(weight, offset);
        for (int r = 0; r < R; ++r) acc[r] = fma(splat(rows[r * stride + k]), w, acc[r]);
    };
    add_one(byte_as_float<0>(line), 0);
    add_one(byte_as_float<1>(line), 1);
    add_one(byte_as_float<2>(line), 2);
    add_one(byte_as_float<3>(line), 3);
}

// Sum of consecutive activations, one after the other.
inline float plain_sum(const float* values, int64_t count) {
    float total = 0.0f;
    for (int64_t i = 0; i < count; ++i) total += values[i];
    return total;
}

template <int bits, int R>
void gemm_int_float_rows(const Panel& panel, const float* rows, int64_t stride,
                         const OutputTile& out) {
    const bool has_minima = panel.minima.halves != nullptr;
    const Lanes offset =
        splat(static_cast<float>(has_minima ? zero_point<bits, true> : zero_point<bits, false>));
    Lanes total[R];
    for (int r = 0; r < R; ++r) total[r] = zero();
    const uint8_t* lines = panel.lines;
    for (int64_t g = 0; g < panel.depth / panel.group; ++g) {
        const float* a = rows + g * panel.group;
        Lanes acc[R];
        for (int r = 0; r < R; ++r) acc[r] = zero();
        for (int64_t k = 0; k < panel.group; k += depth_per_line<bits>, lines += line_bytes) {
            const Line line = load_line(lines);
            if constexpr (bits == 8) {
                add_four(line, offset, a + k, stride, acc);
            } else {
                add_four(low_nibbles(line), offset, a + k, stride, acc);
                add_four(high_nibbles(line), offset, a + k + 4, stride, acc);
            }
        }
        const Lanes scale = scale_of(panel.scales, panel, g);
        for (int r = 0; r < R; ++r) total[r] = fma(acc[r], scale, total[r]);
        if (!has_minima) continue;
        const Lanes minimum = sub(zero(), scale_of(panel.minima, panel, g));
        for (int r = 0; r < R; ++r)
            total[r] = fma(splat(plain_sum(a + r * stride, panel.group)), minimum, total[r]);
    }
    for (int r = 0; r < R; ++r) store_columns(out, r, total[r]);
}

template <int bits>
void gemm_int_float(const Panel& panel, const FloatRows& rows, const OutputTile& out) {
    constexpr int block = dot_rows * 2;
    int r = 0;
    const auto rest_of = [&](int row) {
        return OutputTile{out.data + row * out.stride, out.stride, out.cols};
    };
    for (; r + block <= rows.rows; r += block)
        gemm_int_float_rows<bits, block>(panel, rows.data + r * rows.stride, rows.stride,
                                         rest_of(r));
    for (; r < rows.rows; ++r)
        gemm_int_float_rows<bits, 1>(panel, rows.data + r * rows.stride, rows.stride, rest_of(r));
}

}  // namespace
}  // namespace edge

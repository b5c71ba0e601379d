// Matrix products on 16 lanes; included by each ISA's table after its lanes.h.
#pragma once

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

template <int bits>
struct PanelShape {
    static constexpr int depth_per_line = bits == 8 ? 4 : 8;
    static constexpr int lines_per_group = weight_group / depth_per_line;
    static constexpr int32_t zero_point = bits == 8 ? 128 : 8;
};

inline void store_columns(const OutputTile& out, int row, Lanes values) {
    float* place = out.data + row * out.stride;
    if (out.cols == panel_cols) {
        store(place, values);
    } else {
        store_first(place, values, out.cols);
    }
}

// One group of one panel against R quantized rows; the sums are exact integers.
template <int bits, int R>
inline void dot_group(const uint8_t* lines, const int8_t* activations, IntLanes (&acc)[R]) {
    for (int i = 0; i < PanelShape<bits>::lines_per_group; ++i) {
        const Line line = load_line(lines + i * line_bytes);
        if constexpr (bits == 8) {
            for (int r = 0; r < R; ++r)
                acc[r] = dot4<8>(acc[r], line, activations + (i * R + r) * 4);
        } else {
            const Line low = low_nibbles(line);
            const Line high = high_nibbles(line);
            const int8_t* a = activations + i * 2 * R * 4;
            for (int r = 0; r < R; ++r) acc[r] = dot4<4>(acc[r], low, a + r * 4);
            for (int r = 0; r < R; ++r) acc[r] = dot4<4>(acc[r], high, a + (R + r) * 4);
        }
    }
}

template <int bits, int R>
void gemm_int_rows(const Panel& panel, const QuantizedTile& tile, const OutputTile& out) {
    using Shape = PanelShape<bits>;
    Lanes total[R];
    for (int r = 0; r < R; ++r) total[r] = zero();
    const int64_t groups = panel.depth / weight_group;
    for (int64_t g = 0; g < groups; ++g) {
        IntLanes acc[R];
        for (int r = 0; r < R; ++r)
            acc[r] = start<bits>(-Shape::zero_point * tile.group_sums[g * R + r]);
        dot_group<bits, R>(panel.lines + g * Shape::lines_per_group * line_bytes,
                           tile.values + g * weight_group * R, acc);
        const Lanes scale = load_f16(panel.scales + g * panel_cols);
        for (int r = 0; r < R; ++r) total[r] = fma(to_float(acc[r]), scale, total[r]);
    }
    for (int r = 0; r < R; ++r) store_columns(out, r, mul(total[r], splat(tile.scales[r])));
}

template <int bits, int R = tile_rows>
void gemm_int(const Panel& panel, const QuantizedTile& tile, const OutputTile& out) {
    if constexpr (R >= 1) {
        if (tile.rows == R) return gemm_int_rows<bits, R>(panel, tile, out);
        return gemm_int<bits, R - 1>(panel, tile, out);
    }
}

// Adds four consecutive k of a line to R rows' accumulators.
template <int zero_point, int R>
inline void add_four(Line line, const float* rows, int64_t stride, Lanes (&acc)[R]) {
    const Lanes offset = splat(static_cast<float>(zero_point));
    const auto add_one = [&](Lanes weight, int k) {
        const Lanes w = sub(weight, offset);
        for (int r = 0; r < R; ++r) acc[r] = fma(splat(rows[r * stride + k]), w, acc[r]);
    };
    add_one(byte_as_float<0>(line), 0);
    add_one(byte_as_float<1>(line), 1);
    add_one(byte_as_float<2>(line), 2);
    add_one(byte_as_float<3>(line), 3);
}

template <int bits, int R>
void gemm_int_float_rows(const Panel& panel, const float* rows, int64_t stride,
                         const OutputTile& out) {
    using Shape = PanelShape<bits>;
    Lanes total[R];
    for (int r = 0; r < R; ++r) total[r] = zero();
    for (int64_t g = 0; g < panel.depth / weight_group; ++g) {
        Lanes acc[R];
        for (int r = 0; r < R; ++r) acc[r] = zero();
        for (int i = 0; i < Shape::lines_per_group; ++i) {
            const int64_t line_index = g * Shape::lines_per_group + i;
            const Line line = load_line(panel.lines + line_index * line_bytes);
            const float* a = rows + line_index * Shape::depth_per_line;
            if constexpr (bits == 8) {
                add_four<Shape::zero_point>(line, a, stride, acc);
            } else {
                add_four<Shape::zero_point>(low_nibbles(line), a, stride, acc);
                add_four<Shape::zero_point>(high_nibbles(line), a + 4, stride, acc);
            }
        }
        const Lanes scale = load_f16(panel.scales + g * panel_cols);
        for (int r = 0; r < R; ++r) total[r] = fma(acc[r], scale, total[r]);
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

// What an instruction set must provide: one table of functions on raw pointers.
//
// Contract shared by all tables: float results are bit-equal on every ISA. Each kernel works on
// 16 lanes (as one, two or sixteen registers), adds in the same order and uses fused
// multiply-add in the same places. A row's result depends neither on the other rows of a call
// nor on how rows are tiled. Integer accumulations are exact.
#pragma once

#include <cstdint>

namespace edge {

constexpr int panel_cols = 16;    // output columns that one weight panel interleaves
constexpr int line_bytes = 64;    // one line: [16 cols][4 bytes], one byte per k or pair of k
constexpr int depth_step = 32;    // divides the depth of all quantized weights
constexpr int sum_step = 16;      // the smallest group of weights that share a scale
constexpr int max_run = 256;      // of quantized values that are summed up in float, exactly
constexpr int block_depth = 256;  // along which whole-numbered scales share a factor
constexpr int max_tile_rows = 16;
constexpr int max_burst_chains = 12;

enum class FloatFormat { f32, f16, bf16 };

// Rows of stored float weights, [cols][depth] in place, as they lie in the model file.
struct FloatWeights {
    FloatFormat format;
    const void* data;
    int64_t depth;
};

// Scales, or minima, of a panel's groups. fp16 bits [depth / group][16]; or, when there are whole
// numbers, those [depth / group][16] times fp16 bits [depth / block_depth][16].
struct PanelScales {
    const uint16_t* halves;  // nullptr: there are none
    const int8_t* whole;     // nullptr: the halves say it all
};

// Lines to bring into the cache meanwhile, so many per step of the depth.
struct Ahead {
    const uint8_t* lines;
    int per_step;
};

// 16 output columns of quantized weights: scale * (stored - zero point) - minimum. int8: lines
// [depth/4][16][4], zero point 128. int4: lines [depth/8][16][4], the low nibble holds the first
// four k of a line, the high one the next four; zero point 8, or 0 when there are minima. Group
// is 16 (int8 without minima only) or a multiple of depth_step that divides the depth; its sums of
// int8 products, at most 128 * 127 each, must fit 32 bits.
struct Panel {
    const uint8_t* lines;
    PanelScales scales;
    PanelScales minima;
    int64_t depth;
    int64_t group;
    Ahead ahead = {nullptr, 0};
};

// Rows of float activations, [rows][depth] with a stride in elements.
struct FloatRows {
    const float* data;
    int64_t stride;
    int rows;
};

// At most tile_rows quantized rows: values [depth/4][rows][4]; scales [rows]. group_sums
// [depth/group][rows] are the sums of each of the panel's groups' values, times minus the panel's
// zero point unless that is 0: what its integer products begin with.
struct QuantizedTile {
    const int8_t* values;
    const int32_t* group_sums;
    const float* scales;
    int rows;
};

// At most tile_rows rows in bfloat16, as operands of whatever size a table's are (half_bytes):
// [depth/2][rows][2]. group_sums [depth/group][rows] are the sums of each of the panel's groups.
struct HalvesTile {
    const void* values;
    const float* group_sums;
    int rows;
};

struct OutputTile {
    float* data;     // [rows][cols], the first column of the panel
    int64_t stride;  // in elements
    int cols;        // 1 to 16 columns that exist
};

// One quantized row goes to places `stride` bytes apart, four values each; each run of `run`
// values, a multiple of sum_step and at most max_run, is summed up [depth / run].
struct QuantizedRowSink {
    int8_t* values;
    int64_t stride;
    int32_t* sums;
    int64_t run;
};

constexpr int block_keys = 16;
constexpr int span_keys = 128;  // weighed at once, with a running maximum; f32 weighs all at once
constexpr uint32_t all_valid = 0xFFFF;

// How keys and values are stored. Blocks of sixteen, in lines of 64 bytes; a head's dimension is
// padded with zeros.
//   f32   keys [dim][16], values [16][dim up to 16]
//   bf16  keys [dim/2][16][2], values [dim/16][16/2][16 of dim][2]
//   int8  keys [dim/4][16][4], values [dim/16][16/4][16 of dim][4], unsigned around 128, each then
//         followed by a line of float scales, one per key or value
enum class KeyFormat { f32, bf16, int8 };
constexpr int num_key_formats = 3;

// Sixteen keys and values of one head. A place whose bit in `valid` is not set holds no key; its
// numbers are finite.
struct KeyBlock {
    const void* keys;
    const void* values;
    uint32_t valid;
};

struct AttentionTile {
    const float* const* queries;  // [rows] pointers to [head_dim]
    float* const* outputs;        // [rows] pointers to [head_dim]
    const int32_t* visible;       // [rows] the valid ones of places 0..visible-1 are attended
    int rows;
    const KeyBlock* blocks;  // [ceil(largest visible / 16)]
    int64_t head_dim;
    float scale;
    float* scratch;  // [rows][scratch_per_row]
};

// Floats of scratch that a row of a tile needs for the places of `num_blocks` blocks.
constexpr int64_t scratch_per_row(KeyFormat format, int64_t head_dim, int64_t num_blocks) {
    return format == KeyFormat::f32 ? num_blocks * block_keys
                                    : 2 * span_keys + 2 * ((head_dim + 15) / 16 * 16);
}

// The first of the largest of some numbers and the largest of the others, -infinity where there are
// none; index -1 where none exceeds -infinity.
struct TopTwo {
    int64_t index;
    float first;
    float second;
};

// Of some logits x: their maximum, the sum of e = exp(x - maximum), the sum of (x - maximum) * e.
struct LogitMoments {
    float maximum;
    float sum_exp;
    float sum_weighted;
};

struct KernelTable {
    const char* isa;
    int tile_rows;   // rows that the int kernels take at once
    int query_rows;  // rows that `attend` takes at once

    // out[r][c] for columns first..last-1 of the stored rows.
    void (*gemm_float)(const FloatWeights& weights, const FloatRows& rows, int64_t first,
                       int64_t last, float* out, int64_t out_stride);
    void (*gemm_int8)(const Panel& panel, const QuantizedTile& tile, const OutputTile& out);
    void (*gemm_int4)(const Panel& panel, const QuantizedTile& tile, const OutputTile& out);
    // The same weights against activations in bfloat16.
    void (*gemm_int8_halves)(const Panel& panel, const HalvesTile& tile, const OutputTile& out);
    void (*gemm_int4_halves)(const Panel& panel, const HalvesTile& tile, const OutputTile& out);
    // The same weights against float activations, any number of rows.
    void (*gemm_int8_float)(const Panel& panel, const FloatRows& rows, const OutputTile& out);
    void (*gemm_int4_float)(const Panel& panel, const FloatRows& rows, const OutputTile& out);

    // Symmetric, round(x * 127 / max|x|), ties to even. Returns the scale max|x| / 127, NaN when
    // any x is not finite. depth is a multiple of depth_step.
    float (*quantize_row)(const float* x, int64_t depth, const QuantizedRowSink& sink);

    // One row of a HalvesTile of `rows`, from its first pair on. Returns max|x|, NaN when any x is
    // not finite. depth is even.
    float (*halve_row)(const float* x, int64_t depth, void* place, int64_t rows);
    // What is so rounded, added up by groups, to places `stride` apart.
    void (*sum_halves)(const float* x, int64_t depth, int64_t group, float* sums, int64_t stride);
    int64_t half_bytes;

    // out = x / sqrt(mean(x^2) + eps) * weight; returns mean(x^2), not finite when any x is not.
    float (*rms_norm)(const float* x, const float* weight, int64_t count, float eps, float* out);
    void (*silu_multiply)(const float* gate, const float* up, int64_t count, float* out);
    // exp(x), of x kept within -87 and 88.
    void (*exponentials)(const float* x, int64_t count, float* out);
    void (*add)(const float* x, int64_t count, float* sum);
    void (*add_scaled)(const float* x, float scale, int64_t count, float* sum);
    void (*attend[num_key_formats])(const AttentionTile& tile);
    // To bfloat16 bits as the products read them: ties to even, below 2^-126 to zero.
    void (*round_halves)(const float* x, int64_t count, uint16_t* out);
    TopTwo (*top_two)(const float* x, int64_t count);
    LogitMoments (*logit_moments)(const float* x, int64_t count);

    // For measuring peak rates, on [burst_chains][16] accumulators. A round of int8 is a step of
    // the depth: it adds to every lane, four times, the dot products of its four weights (nibbles,
    // [16][4]) with four activations and with the next four; chain c starts at c, and the caller
    // keeps the sums within int32. A round of float is out = out * x + y; one of bf16 adds to
    // every lane the products of a pair of x with a pair of y.
    int burst_chains;
    void (*burst_int8)(const uint8_t* weights, const int8_t* activations, int64_t rounds,
                       float* out);
    void (*burst_float)(float x, float y, int64_t rounds, float* out);
    void (*burst_bf16)(float x, float y, int64_t rounds, float* out);
};

extern const KernelTable generic_kernels;
extern const KernelTable avx2_kernels;
extern const KernelTable avxvnni_kernels;
extern const KernelTable avx512vnni_kernels;
extern const KernelTable avx512bf16_kernels;
extern const KernelTable neon_dotprod_kernels;
extern const KernelTable neon_i8mm_kernels;

}  // namespace edge

// Attention over spans of keys with a running maximum, as in FlashAttention (arXiv 2205.14135), for
// keys and values that are stored in a shorter format; included by each ISA's table after rows.h.
//
// `Keys` is a format: how a query and the weights of a span become operands, and what products
// with them are. A row's result does not depend on the other rows of its tile.
#pragma once

namespace edge {
namespace {

constexpr int span_blocks = span_keys / block_keys;
constexpr float log2_e = 1.44269504f;
constexpr float unseen = -std::numeric_limits<float>::infinity();

// The scratch of a tile of R rows.
template <int R>
struct Scratch {
    float* scores;   // [R][span_keys]
    float* weights;  // room for R * span_keys floats, as the format likes it
    float* queries;  // room for R * padded_dim floats, likewise

    explicit Scratch(float* place)
        : scores(place), weights(place + R * span_keys), queries(place + 2 * R * span_keys) {}
};

// What is known of each row after some spans.
template <int R>
struct Running {
    Lanes totals[R];     // sums of weights
    float maxima[R];     // of scores
    Lanes shrinkage[R];  // by which the last span's new maximum multiplies what came before
};

inline void hide(float* scores, const KeyBlock* blocks, int num_blocks, int64_t visible) {
    set_invalid(scores, blocks, num_blocks, unseen);
    for (int64_t i = visible < 0 ? 0 : visible; i < num_blocks * block_keys; ++i)
        scores[i] = unseen;
}

// 2^x for x up to 0, relative error below 3e-6: weights are rounded to less than that. What is
// below 2^-126 becomes 2^-126; NaN stays NaN.
inline Lanes exp2_of_negative(Lanes x) {
    x = max(splat(-126.0f), x);
    const Lanes n = round_even(x);
    const Lanes r = sub(x, n);
    Lanes p = splat(0x1.3a02ccp-7f);
    p = fma(p, r, splat(0x1.c9fc46p-5f));
    p = fma(p, r, splat(0x1.ec0378p-3f));
    p = fma(p, r, splat(0x1.62e12cp-1f));
    p = fma(p, r, splat(1.0f));
    return scale_by_power(p, n);
}

// Turns a row's scores of a span, in bits, into weights 2^(score - running maximum), of which
// `keys` takes sixteen at a time.
template <typename Keys, int R>
inline void weigh(const float* scores, int count, int r, Keys& keys, const Scratch<R>& scratch,
                  Running<R>& running) {
    const float highest = maximum(scores, count);
    const float before = running.maxima[r];
    running.maxima[r] = highest > before ? highest : before;
    const Lanes high = splat(running.maxima[r]);
    running.shrinkage[r] = exp2_of_negative(sub(splat(before), high));
    const Lanes least = splat(0x1p-126f);  // subtracted, so that an unseen key weighs nothing
    Lanes total = mul(running.totals[r], running.shrinkage[r]);
    for (int i = 0; i < count; i += 16) {
        const Lanes weights = sub(exp2_of_negative(sub(load(scores + i), high)), least);
        total = add(total, weights);
        keys.take(r, i, weights, scratch);
    }
    running.totals[r] = total;
}

template <typename Keys, int R>
void attend_span(const AttentionTile& tile, int64_t first_block, int num_blocks, Keys& keys,
                 const Scratch<R>& scratch, Running<R>& running) {
    const KeyBlock* blocks = tile.blocks + first_block;
    const int count = num_blocks * block_keys;
    keys.score(tile, blocks, num_blocks, scratch);
    for (int r = 0; r < R; ++r) {
        float* scores = scratch.scores + r * span_keys;
        hide(scores, blocks, num_blocks, tile.visible[r] - first_block * block_keys);
        weigh(scores, count, r, keys, scratch, running);
    }
    keys.mix(tile, blocks, num_blocks, scratch, running.shrinkage);
}

template <typename Keys, int R>
void attend_rows_in_spans(const AttentionTile& tile) {
    int64_t num_keys = 0;
    for (int r = 0; r < R; ++r) num_keys = num_keys > tile.visible[r] ? num_keys : tile.visible[r];
    const int64_t num_blocks = (num_keys + block_keys - 1) / block_keys;
    const Scratch<R> scratch(tile.scratch);
    Running<R> running;
    for (int r = 0; r < R; ++r) {
        running.totals[r] = zero();
        running.maxima[r] = unseen;
        for (int64_t d = 0; d < tile.head_dim; ++d) tile.outputs[r][d] = 0.0f;
    }
    Keys keys(tile, scratch);
    for (int64_t first = 0; first < num_blocks; first += span_blocks) {
        const int64_t rest = num_blocks - first;
        attend_span<Keys, R>(tile, first, static_cast<int>(rest < span_blocks ? rest : span_blocks),
                             keys, scratch, running);
    }
    for (int r = 0; r < R; ++r) {
        const Lanes inverse = splat(1.0f / sum(running.totals[r]));
        for_lanes(tile.head_dim, [&](int64_t d, int n) {
            store_run(tile.outputs[r] + d, mul(load_run(tile.outputs[r] + d, n), inverse), n);
        });
    }
}

template <template <int> typename Keys, int R = query_rows>
void attend_in_spans(const AttentionTile& tile) {
    if constexpr (R >= 1) {
        if (tile.rows == R) return attend_rows_in_spans<Keys<R>, R>(tile);
        return attend_in_spans<Keys, R - 1>(tile);
    }
}

}  // namespace
}  // namespace edge

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
    float* queries;  // room for R * width floats, likewise
    // [R][width], side by side: the rows of a tile's outputs lie so far apart that all would share
    // few lines of the first-level cache.
    float* mixed;
    int64_t width;  // head_dim up to 16

    explicit Scratch(const AttentionTile& tile)
        : scores(tile.scratch),
          weights(scores + R * span_keys),
          queries(weights + R * span_keys),
          mixed(queries + R * ((tile.head_dim + 15) / 16 * 16)),
          width((tile.head_dim + 15) / 16 * 16) {}
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

// Consecutive blocks; while they are scored their values are fetched ahead, while those are mixed
// the keys of the next span, of `num_next` blocks: no hardware prefetcher follows from page to
// page.
struct Span {
    const KeyBlock* blocks;
    int num_blocks;
    int num_next;

    const uint8_t* keys(int b) const { return static_cast<const uint8_t*>(blocks[b].keys); }
    const uint8_t* values(int b) const { return static_cast<const uint8_t*>(blocks[b].values); }
    const uint8_t* next_keys(int b) const { return keys(b < num_next ? b + span_blocks : b); }
};

template <typename Keys, int R>
void attend_span(const AttentionTile& tile, int64_t first_block, const Span& span, Keys& keys,
                 const Scratch<R>& scratch, Running<R>& running) {
    const int count = span.num_blocks * block_keys;
    keys.score(tile, span, scratch);
    for (int r = 0; r < R; ++r) {
        float* scores = scratch.scores + r * span_keys;
        hide(scores, span.blocks, span.num_blocks, tile.visible[r] - first_block * block_keys);
        weigh(scores, count, r, keys, scratch, running);
    }
    keys.mix(span, scratch, running.shrinkage);
}

template <typename Keys, int R>
void attend_rows_in_spans(const AttentionTile& tile) {
    int64_t num_keys = 0;
    for (int r = 0; r < R; ++r) num_keys = num_keys > tile.visible[r] ? num_keys : tile.visible[r];
    const int64_t num_blocks = (num_keys + block_keys - 1) / block_keys;
    const Scratch<R> scratch(tile);
    Running<R> running;
    for (int r = 0; r < R; ++r) {
        running.totals[r] = zero();
        running.maxima[r] = unseen;
    }
    for_lanes(R * scratch.width, [&](int64_t i, int) { store(scratch.mixed + i, zero()); });
    Keys keys(tile, scratch);
    const auto size_of_span = [num_blocks](int64_t first) {
        const int64_t rest = num_blocks - first;
        return static_cast<int>(rest < 0 ? 0 : rest < span_blocks ? rest : span_blocks);
    };
    for (int64_t first = 0; first < num_blocks; first += span_blocks) {
        const Span span{tile.blocks + first, size_of_span(first),
                        size_of_span(first + span_blocks)};
        attend_span<Keys, R>(tile, first, span, keys, scratch, running);
    }
    for (int r = 0; r < R; ++r) {
        const Lanes inverse = splat(1.0f / sum(running.totals[r]));
        for_lanes(tile.head_dim, [&](int64_t d, int n) {
            store_run(tile.outputs[r] + d,
                      mul(load(scratch.mixed + r * scratch.width + d), inverse), n);
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

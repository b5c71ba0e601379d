// Attention of a few query rows over all keys; included by each ISA's table after rows.h.
#pragma once

namespace edge {
namespace {

template <int R>
void score_keys(const AttentionTile& tile, int64_t num_blocks) {
    for (int64_t b = 0; b < num_blocks; ++b) {
        const auto* keys = static_cast<const float*>(tile.blocks[b].keys);
        Lanes acc[R];
        for (int r = 0; r < R; ++r) acc[r] = zero();
        for (int64_t d = 0; d < tile.head_dim; ++d) {
            const Lanes k = load(keys + d * 16);
            for (int r = 0; r < R; ++r) acc[r] = fma(splat(tile.queries[r][d]), k, acc[r]);
        }
        for (int r = 0; r < R; ++r)
            store(tile.scratch + (r * num_blocks + b) * block_keys, mul(acc[r], splat(tile.scale)));
    }
}

// Gives the scores of places without a key this value.
inline void set_invalid(float* scores, const KeyBlock* blocks, int64_t num_blocks, float value) {
    for (int64_t b = 0; b < num_blocks; ++b)
        for (int i = 0; blocks[b].valid != all_valid && i < block_keys; ++i)
            if ((blocks[b].valid >> i & 1u) == 0) scores[b * block_keys + i] = value;
}

// Turns a row's scores into exp(score - max), zero for keys it does not see; returns their sum.
float exponentiate(float* scores, int64_t visible, const KeyBlock* blocks, int64_t num_blocks) {
    set_invalid(scores, blocks, num_blocks, -std::numeric_limits<float>::infinity());
    const Lanes high = splat(maximum(scores, visible));
    for (int64_t i = 0; i < visible; i += 16) store(scores + i, exp(sub(load(scores + i), high)));
    set_invalid(scores, blocks, num_blocks, 0.0f);
    for (int64_t i = visible; i < num_blocks * block_keys; ++i) scores[i] = 0.0f;
    Lanes total = zero();
    for (int64_t i = 0; i < visible; i += 16) total = add(total, load(scores + i));
    return sum(total);
}

template <int R>
void mix_values(const AttentionTile& tile, int64_t num_keys, const float (&inverse_sums)[R]) {
    const int64_t value_stride = (tile.head_dim + 15) / 16 * 16;
    const int64_t score_stride = (num_keys + block_keys - 1) / block_keys * block_keys;
    for (int64_t d = 0; d < tile.head_dim; d += 16) {
        Lanes acc[R];
        for (int r = 0; r < R; ++r) acc[r] = zero();
        for (int64_t first = 0; first < num_keys; first += block_keys) {
            const auto* values =
                static_cast<const float*>(tile.blocks[first / block_keys].values) + d;
            const float* weights = tile.scratch + first;
            const int64_t count = num_keys - first < block_keys ? num_keys - first : block_keys;
            for (int64_t k = 0; k < count; ++k) {
                const Lanes v = load(values + k * value_stride);
                for (int r = 0; r < R; ++r)
                    acc[r] = fma(splat(weights[r * score_stride + k]), v, acc[r]);
            }
        }
        const int n = static_cast<int>(tile.head_dim - d < 16 ? tile.head_dim - d : 16);
        for (int r = 0; r < R; ++r)
            store_run(tile.outputs[r] + d, mul(acc[r], splat(inverse_sums[r])), n);
    }
}

template <int R>
void attend_rows(const AttentionTile& tile) {
    int64_t num_keys = 0;
    for (int r = 0; r < R; ++r) num_keys = num_keys > tile.visible[r] ? num_keys : tile.visible[r];
    const int64_t num_blocks = (num_keys + block_keys - 1) / block_keys;
    score_keys<R>(tile, num_blocks);
    float inverse_sums[R];
    for (int r = 0; r < R; ++r)
        inverse_sums[r] = 1.0f / exponentiate(tile.scratch + r * num_blocks * block_keys,
                                              tile.visible[r], tile.blocks, num_blocks);
    mix_values<R>(tile, num_keys, inverse_sums);
}

template <int R = query_rows>
void attend(const AttentionTile& tile) {
    if constexpr (R >= 1) {
        if (tile.rows == R) return attend_rows<R>(tile);
        return attend<R - 1>(tile);
    }
}

}  // namespace
}  // namespace edge

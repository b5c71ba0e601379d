#include "attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace edge {

int64_t AttentionMask::visible_end(int64_t position) const {
    switch (kind) {
        case Kind::full: return std::numeric_limits<int64_t>::max();
        case Kind::causal: return position + 1;
        case Kind::causal_context:
            return position < origin ? position + 1 : std::numeric_limits<int64_t>::max();
        case Kind::block: break;
    }
    const int64_t distance = position - origin;
    const int64_t rest = (distance % block_length + block_length) % block_length;
    return position - rest + block_length;
}

void AttentionShape::place(float* keys, float* values, int64_t place, const float* key,
                           const float* value) const {
    for (int64_t d = 0; d < head_dim; ++d) keys[d * block_keys + place] = key[d];
    std::copy_n(value, head_dim, values + place * value_stride());
}

// The query heads that share keys and values are rows of the same tiles.
void Attention::run(const Machine& machine, const float* queries,
                    const std::vector<int32_t>& visible, const std::vector<KeyBlock>& blocks,
                    float* out) {
    const int64_t num_rows = static_cast<int64_t>(visible.size());
    const int64_t group = shape_.num_heads / shape_.num_kv_heads;
    const int64_t num_blocks = static_cast<int64_t>(blocks.size()) / shape_.num_kv_heads;
    const int64_t tile_rows = machine.kernels.query_rows;
    const int64_t num_tiles = (num_rows * group + tile_rows - 1) / tile_rows;
    const int64_t places = num_blocks * block_keys;
    scores_.resize(static_cast<size_t>(machine.pool.num_threads() * tile_rows * places));
    const int64_t operations =
        2 * num_rows * shape_.num_heads * shape_.head_dim * places * float_multiply_add;
    machine.pool.run({shape_.num_kv_heads * num_tiles, operations}, [&](int64_t chunk, int worker) {
        const int64_t kv_head = chunk / num_tiles;
        const int64_t first = chunk % num_tiles * tile_rows;
        const float* tile_queries[max_tile_rows];
        float* tile_out[max_tile_rows];
        int32_t tile_visible[max_tile_rows];
        const int count = static_cast<int>(std::min(tile_rows, num_rows * group - first));
        for (int r = 0; r < count; ++r) {
            const int64_t row = (first + r) % num_rows;
            const int64_t head = kv_head * group + (first + r) / num_rows;
            const int64_t place = (row * shape_.num_heads + head) * shape_.head_dim;
            tile_queries[r] = queries + place;
            tile_out[r] = out + place;
            tile_visible[r] = visible[static_cast<size_t>(row)];
        }
        machine.kernels.attend({tile_queries, tile_out, tile_visible, count,
                                blocks.data() + kv_head * num_blocks, shape_.value_stride(),
                                shape_.head_dim,
                                1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
                                scores_.data() + worker * tile_rows * places, places});
    });
}

}  // namespace edge

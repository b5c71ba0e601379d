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

// The query heads that share keys and values are rows of the same tiles.
void Attention::run(const Machine& machine, const float* queries,
                    const std::vector<int32_t>& visible, const std::vector<KeyBlock>& blocks,
                    float* out) {
    const int64_t num_rows = static_cast<int64_t>(visible.size());
    const int64_t group = shape_.num_heads / shape_.num_kv_heads;
    const int64_t num_blocks = static_cast<int64_t>(blocks.size()) / shape_.num_kv_heads;
    const int64_t tile_rows = machine.kernels.query_rows;
    const int64_t num_tiles =
        std::max((num_rows * group + tile_rows - 1) / tile_rows,
                 std::min(num_rows * group, machine.pool.num_threads() / shape_.num_kv_heads));
    const int64_t places = num_blocks * block_keys;
    const int64_t tile_scratch =
        tile_rows * scratch_per_row(shape_.format, shape_.head_dim, num_blocks);
    auto* scratch = reinterpret_cast<float*>(scratch_.of(machine.pool.num_threads() * tile_scratch *
                                                         static_cast<int64_t>(sizeof(float))));
    const auto attend = machine.kernels.attend[static_cast<int>(shape_.format)];
    const int64_t operations =
        2 * num_rows * shape_.num_heads * shape_.head_dim * places * float_multiply_add;
    machine.pool.run({shape_.num_kv_heads * num_tiles, operations}, [&](int64_t chunk, int worker) {
        const int64_t kv_head = chunk / num_tiles;
        const int64_t tile = chunk % num_tiles;
        const int64_t first = tile * num_rows * group / num_tiles;  // even tiles
        const float* tile_queries[max_tile_rows];
        float* tile_out[max_tile_rows];
        int32_t tile_visible[max_tile_rows];
        const auto count = static_cast<int>((tile + 1) * num_rows * group / num_tiles - first);
        for (int r = 0; r < count; ++r) {
            const int64_t row = (first + r) % num_rows;
            const int64_t head = kv_head * group + (first + r) / num_rows;
            const int64_t place = (row * shape_.num_heads + head) * shape_.head_dim;
            tile_queries[r] = queries + place;
            tile_out[r] = out + place;
            tile_visible[r] = visible[static_cast<size_t>(row)];
        }
        attend({tile_queries, tile_out, tile_visible, count, blocks.data() + kv_head * num_blocks,
                shape_.head_dim, 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
                scratch + worker * tile_scratch});
    });
}

}  // namespace edge

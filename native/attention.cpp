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

void Attention::resize(const Machine& machine, int64_t num_keys) {
    num_blocks_ = (num_keys + 15) / 16;
    value_stride_ = (shape_.head_dim + 15) / 16 * 16;
    const int64_t padded = num_blocks_ * 16;
    keys_.assign(static_cast<size_t>(shape_.num_kv_heads * padded * shape_.head_dim), 0.0f);
    values_.assign(static_cast<size_t>(shape_.num_kv_heads * padded * value_stride_), 0.0f);
    scores_.resize(
        static_cast<size_t>(machine.pool.num_threads() * machine.kernels.query_rows * padded));
}

void Attention::pack_block(const KeyRows& rows, int64_t kv_head, int64_t block) {
    const int64_t dim = shape_.head_dim;
    float* packed = keys_.data() + (kv_head * num_blocks_ + block) * dim * 16;
    const int64_t last = std::min<int64_t>(static_cast<int64_t>(rows.keys.size()), block * 16 + 16);
    for (int64_t k = block * 16; k < last; ++k) {
        const float* key = rows.keys[static_cast<size_t>(k)] + kv_head * dim;
        for (int64_t d = 0; d < dim; ++d) packed[d * 16 + k % 16] = key[d];
        const float* value = rows.values[static_cast<size_t>(k)] + kv_head * dim;
        std::copy_n(value, dim, values_.data() + (kv_head * num_blocks_ * 16 + k) * value_stride_);
    }
}

void Attention::pack(const Machine& machine, const KeyRows& rows) {
    resize(machine, static_cast<int64_t>(rows.keys.size()));
    const int64_t num_chunks = shape_.num_kv_heads * num_blocks_;
    machine.pool.run(
        {num_chunks, num_chunks * 16 * shape_.head_dim * added_element},
        [&](int64_t chunk, int) { pack_block(rows, chunk / num_blocks_, chunk % num_blocks_); });
}

void Attention::run(const Machine& machine, const float* queries,
                    const std::vector<int32_t>& visible, const KeyRows& rows, float* out) {
    pack(machine, rows);
    const int64_t num_rows = static_cast<int64_t>(visible.size());
    const int64_t tile_rows = machine.kernels.query_rows;
    const int64_t num_tiles = (num_rows + tile_rows - 1) / tile_rows;
    const int64_t width = shape_.num_heads * shape_.head_dim;
    const int64_t group = shape_.num_heads / shape_.num_kv_heads;
    const int64_t operations = 2 * num_rows * width * num_blocks_ * 16 * float_multiply_add;
    machine.pool.run({shape_.num_heads * num_tiles, operations}, [&](int64_t chunk, int worker) {
        const int64_t head = chunk / num_tiles;
        const int64_t first = chunk % num_tiles * tile_rows;
        const float* tile_queries[max_tile_rows];
        float* tile_out[max_tile_rows];
        const int count = static_cast<int>(std::min(tile_rows, num_rows - first));
        for (int r = 0; r < count; ++r) {
            const int64_t place = (first + r) * width + head * shape_.head_dim;
            tile_queries[r] = queries + place;
            tile_out[r] = out + place;
        }
        const int64_t kv_head = head / group;
        const int64_t padded = num_blocks_ * 16;
        machine.kernels.attend({tile_queries, tile_out, visible.data() + first, count,
                                keys_.data() + kv_head * padded * shape_.head_dim,
                                values_.data() + kv_head * padded * value_stride_, value_stride_,
                                shape_.head_dim,
                                1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
                                scores_.data() + worker * tile_rows * padded, padded});
    });
}

}  // namespace edge

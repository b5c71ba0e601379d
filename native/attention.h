// Attention of the active tokens over cached and active keys, in position order.
#pragma once

#include <cstdint>
#include <vector>

#include "linear.h"

namespace edge {

// Which keys a query may see. All kinds let position q see a prefix of the positions:
// full: everything; causal: up to q; block: up to the end of q's block, blocks of `block_length`
// counted from `origin` (positions before it form blocks too, counted backwards);
// causal_context: up to q before `origin`, everything from there on.
struct AttentionMask {
    enum class Kind { full, causal, block, causal_context } kind = Kind::full;
    int64_t block_length = 0;
    int64_t origin = 0;

    // Position of the first key that a query at `position` does not see.
    int64_t visible_end(int64_t position) const;
};

struct AttentionShape {
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t head_dim;
};

// Keys and values of one layer in ascending position order, rows of num_kv_heads * head_dim.
struct KeyRows {
    std::vector<const float*> keys;
    std::vector<const float*> values;
};

class Attention {
public:
    explicit Attention(const AttentionShape& shape) : shape_(shape) {}

    // queries and out: [rows][num_heads * head_dim]; visible [rows] counts the keys a row sees.
    void run(const Machine& machine, const float* queries, const std::vector<int32_t>& visible,
             const KeyRows& rows, float* out);

private:
    void resize(const Machine& machine, int64_t num_keys);
    void pack(const Machine& machine, const KeyRows& rows);
    void pack_block(const KeyRows& rows, int64_t kv_head, int64_t block);

    AttentionShape shape_;
    int64_t num_blocks_ = 0;  // of 16 keys
    int64_t value_stride_ = 0;
    std::vector<float> keys_;    // [kv_heads][blocks][head_dim][16]
    std::vector<float> values_;  // [kv_heads][blocks * 16][value_stride]
    std::vector<float> scores_;  // [threads][query_rows][blocks * 16]
};

}  // namespace edge

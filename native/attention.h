// Attention of the active tokens over cached and active keys.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned.h"
#include "key_layout.h"
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

class Attention {
public:
    explicit Attention(const AttentionShape& shape) : shape_(shape) {}

    // queries and out: [rows][num_heads * head_dim]; visible [rows] counts the places of the
    // blocks [num_kv_heads][num_blocks] that a row sees.
    void run(const Machine& machine, const float* queries, const std::vector<int32_t>& visible,
             const std::vector<KeyBlock>& blocks, float* out);

private:
    AttentionShape shape_;
    Room scratch_;  // [threads][query_rows][scratch_per_row]
};

}  // namespace edge

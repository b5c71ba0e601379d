// The attention kernels of every ISA and key format: bit-equal to the generic one, near a double
// reference, and what a row sees does not depend on the rows computed with it.
#include "check.h"
#include "guarded.h"
#include "key_layout.h"
#include "tables.h"

using namespace edge;
using namespace edge::test;

namespace {

constexpr int64_t max_keys = 300;  // more than two spans
constexpr int64_t max_blocks = 19;
constexpr int64_t max_dim = 130;
constexpr int64_t max_block_bytes = 16 * 144 * 4;
constexpr KeyFormat formats[] = {KeyFormat::f32, KeyFormat::bf16, KeyFormat::int8};
const char* const format_names[] = {"f32", "bf16", "int8"};

// What rounding queries and weights may change in a mean of values up to 1.
double tolerance(KeyFormat format) {
    return format == KeyFormat::f32 ? 2e-6 : format == KeyFormat::bf16 ? 0.01 : 0.03;
}

// Keys, values and queries of one head.
class Head {
public:
    // Every `hole`-th place holds no key; 0: all do.
    Head(KeyFormat format, int64_t dim, int hole)
        : shape_{1, 1, dim, format},
          dim_(dim),
          hole_(hole),
          queries_(random_floats(max_tile_rows * dim, 31)),
          keys_(random_floats(max_keys * dim, 32)),
          values_(random_floats(max_keys * dim, 33)) {
        pack();
    }

    KeyFormat format() const { return shape_.format; }

    int64_t dim() const { return dim_; }

    // Attend with the rows `first`..; visible [rows]. Returns [rows][dim].
    std::vector<float> attend(const KernelTable& table, Side side, int first,
                              const std::vector<int32_t>& visible) {
        const int rows = static_cast<int>(visible.size());
        const int64_t num_keys = *std::max_element(visible.begin(), visible.end());
        const int64_t num_blocks = (num_keys + block_keys - 1) / block_keys;
        const auto count = static_cast<size_t>(rows * dim_);
        const float* query = query_buffer_.copy(side, &queries_[first * dim_], count);
        float* out = out_buffer_.filled(side, count, -777.0f);
        std::vector<const float*> query_rows;
        std::vector<float*> out_rows;
        for (int r = 0; r < rows; ++r) {
            query_rows.push_back(query + r * dim_);
            out_rows.push_back(out + r * dim_);
        }
        const auto blocks = place_blocks(side, num_blocks);
        const auto scratch =
            static_cast<size_t>(rows * scratch_per_row(shape_.format, dim_, num_blocks));
        table.attend[static_cast<int>(shape_.format)](
            {query_rows.data(), out_rows.data(), visible_buffer_.copy(side, visible), rows,
             blocks.data(), dim_, scale(), scratch_buffer_.at(side, scratch)});
        return {out, out + count};
    }

    std::vector<double> reference(int row, int visible) const {
        std::vector<double> weights;
        double total = 0.0;
        for (int k = 0; k < visible; ++k) {
            weights.push_back(0.0);
            if (!holds_key(k)) continue;
            double score = 0.0;
            for (int64_t d = 0; d < dim_; ++d)
                score += double{queries_[row * dim_ + d]} * keys_[k * dim_ + d];
            weights.back() = std::exp(score * scale());
            total += weights.back();
        }
        std::vector<double> mixed(static_cast<size_t>(dim_), 0.0);
        for (int k = 0; k < visible; ++k)
            for (int64_t d = 0; d < dim_; ++d)
                mixed[d] += weights[k] / total * values_[k * dim_ + d];
        return mixed;
    }

private:
    bool holds_key(int64_t place) const {
        return place < max_keys && (hole_ == 0 || place % hole_ != hole_ - 1);
    }

    float scale() const { return 1.0f / std::sqrt(static_cast<float>(dim_)); }

    // Packed blocks of all keys; what is stored of them is the truth from then on.
    void pack() {
        packed_keys_.resize(static_cast<size_t>(max_blocks * shape_.key_block()));
        packed_values_.resize(static_cast<size_t>(max_blocks * shape_.value_block()));
        for (int64_t k = 0; k < max_keys; ++k) {
            std::byte* keys = packed_keys_.data() + k / block_keys * shape_.key_block();
            std::byte* values = packed_values_.data() + k / block_keys * shape_.value_block();
            float* key = &keys_[k * dim_];
            float* value = &values_[k * dim_];
            if (holds_key(k))
                shape_.place(generic_kernels, keys, values, k % block_keys, key, value);
            shape_.read(keys, values, k % block_keys, key, value);
        }
    }
    std::vector<KeyBlock> place_blocks(Side side, int64_t num_blocks) {
        const int64_t key_block = shape_.key_block(), value_block = shape_.value_block();
        const auto* keys = key_buffer_.copy(side, packed_keys_.data(),
                                            static_cast<size_t>(num_blocks * key_block));
        const auto* values = value_buffer_.copy(side, packed_values_.data(),
                                                static_cast<size_t>(num_blocks * value_block));
        std::vector<KeyBlock> blocks;
        for (int64_t b = 0; b < num_blocks; ++b) {
            uint32_t valid = 0;
            for (int64_t i = 0; i < block_keys; ++i)
                valid |= static_cast<uint32_t>(holds_key(b * block_keys + i)) << i;
            blocks.push_back({keys + b * key_block, values + b * value_block, valid});
        }
        return blocks;
    }

    AttentionShape shape_;
    int64_t dim_;
    int hole_;
    std::vector<float> queries_, keys_, values_;
    Guarded<float> query_buffer_{max_tile_rows * max_dim}, out_buffer_{max_tile_rows * max_dim};
    std::vector<std::byte> packed_keys_, packed_values_;
    Guarded<std::byte> key_buffer_{max_blocks * max_block_bytes};
    Guarded<std::byte> value_buffer_{max_blocks * max_block_bytes};
    Guarded<float> scratch_buffer_{max_tile_rows * (max_blocks * block_keys + 2 * (max_dim + 16))};
    Guarded<int32_t> visible_buffer_{max_tile_rows};
};

// Rows that all see `num_keys` keys, or each one fewer than the row before.
std::vector<int32_t> visibility(int rows, int num_keys, bool stepped) {
    std::vector<int32_t> visible;
    for (int r = 0; r < rows; ++r)
        visible.push_back(std::max(1, stepped ? num_keys - r * 5 : num_keys));
    return visible;
}

void check_rows(const KernelTable& table, Side side, Head& head,
                const std::vector<int32_t>& visible) {
    const auto together = head.attend(table, side, 0, visible);
    for (size_t r = 0; r < visible.size(); ++r) {
        const int row = static_cast<int>(r);
        const auto alone = head.attend(generic_kernels, side, row, {visible[r]});
        const auto reference = head.reference(row, visible[r]);
        for (int64_t d = 0; d < head.dim(); ++d) {
            const float value = together[r * head.dim() + d];
            check(same(value, alone[d]), "differs from generic, one row at a time");
            check(near(value, reference[d],
                       tolerance(head.format()) * (1.0 + std::fabs(reference[d]))),
                  "far from double");
        }
    }
}

// Every number of keys at first, then some; beyond a span few, since they take an emulator long.
int next_number(int num_keys, int hole) {
    if (num_keys < 34 && hole == 0) return num_keys + step_of(5);
    return num_keys + (num_keys < 70 ? 7 : 55 * step_of(4));
}

void check_head(const KernelTable& table, Side side, Head& head, int hole) {
    for (int num_keys = 1; num_keys <= max_keys; num_keys = next_number(num_keys, hole))
        for (int rows = 1; rows <= table.query_rows; rows += step_of(1, 3))
            for (const bool stepped : {false, true}) {
                current_case = std::string(table.isa) + " " +
                               format_names[static_cast<int>(head.format())] + " dim " +
                               std::to_string(head.dim()) + " keys " + std::to_string(num_keys) +
                               " rows " + std::to_string(rows) + " hole " + std::to_string(hole);
                check_rows(table, side, head, visibility(rows, num_keys, stepped));
            }
}

}  // namespace

int main() {
    for (const int64_t dim : {1, 2, 8, 15, 16, 17, 32, 64, 70, 128, 130})
        for (const int hole : {0, 3, 17})
            for (const KeyFormat format : formats) {
                Head head(format, dim, hole);
                for (const KernelTable* table : all_tables())
                    for (const Side side : both_sides) check_head(*table, side, head, hole);
            }
    return verdict();
}

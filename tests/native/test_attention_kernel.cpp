// The attention kernel on every ISA: bit-equal to the generic one, near a double reference, and
// what a row sees does not depend on the rows computed with it.
#include "check.h"
#include "guarded.h"
#include "tables.h"

using namespace edge;
using namespace edge::test;

namespace {

constexpr int64_t max_keys = 70;
constexpr int64_t max_padded = 80;
constexpr int64_t max_dim = 130;
constexpr int64_t max_stride = 144;

int64_t round_up_to_16(int64_t count) { return (count + 15) / 16 * 16; }

// Keys, values and queries of one head.
class Head {
public:
    // Every `hole`-th place holds no key; 0: all do.
    explicit Head(int64_t dim, int hole = 0)
        : dim_(dim),
          hole_(hole),
          queries_(random_floats(max_tile_rows * dim, 31)),
          keys_(random_floats(max_keys * dim, 32)),
          values_(random_floats(max_keys * dim, 33)) {}

    int64_t dim() const { return dim_; }

    // Attend with the rows `first`..; visible [rows]. Returns [rows][dim].
    std::vector<float> attend(const KernelTable& table, Side side, int first,
                              const std::vector<int32_t>& visible) {
        const int rows = static_cast<int>(visible.size());
        const int64_t num_keys = *std::max_element(visible.begin(), visible.end());
        const int64_t padded = round_up_to_16(num_keys);
        const auto count = static_cast<size_t>(rows * dim_);
        const float* query = query_buffer_.copy(side, &queries_[first * dim_], count);
        float* out = out_buffer_.filled(side, count, -777.0f);
        std::vector<const float*> query_rows;
        std::vector<float*> out_rows;
        for (int r = 0; r < rows; ++r) {
            query_rows.push_back(query + r * dim_);
            out_rows.push_back(out + r * dim_);
        }
        const auto blocks =
            blocks_of(place_keys(side, num_keys), place_values(side, num_keys), num_keys);
        table.attend({query_rows.data(), out_rows.data(), visible_buffer_.copy(side, visible), rows,
                      blocks.data(), round_up_to_16(dim_), dim_, scale(),
                      score_buffer_.at(side, static_cast<size_t>(rows * padded)), padded});
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
    bool holds_key(int64_t place) const { return hole_ == 0 || place % hole_ != hole_ - 1; }

    std::vector<KeyBlock> blocks_of(const float* keys, const float* values,
                                    int64_t num_keys) const {
        std::vector<KeyBlock> blocks;
        for (int64_t first = 0; first < num_keys; first += block_keys) {
            uint32_t valid = 0;
            for (int64_t i = 0; i < block_keys; ++i)
                valid |= static_cast<uint32_t>(holds_key(first + i)) << i;
            blocks.push_back({keys + first * dim_, values + first * round_up_to_16(dim_), valid});
        }
        return blocks;
    }

    float scale() const { return 1.0f / std::sqrt(static_cast<float>(dim_)); }

    const float* place_keys(Side side, int64_t num_keys) {
        const int64_t padded = round_up_to_16(num_keys);
        float* packed = key_buffer_.filled(side, static_cast<size_t>(padded * dim_), 0.0f);
        for (int64_t k = 0; k < num_keys; ++k)
            for (int64_t d = 0; d < dim_; ++d)
                packed[(k / 16 * dim_ + d) * 16 + k % 16] = keys_[k * dim_ + d];
        return packed;
    }
    const float* place_values(Side side, int64_t num_keys) {
        const int64_t stride = round_up_to_16(dim_);
        float* packed = value_buffer_.filled(side, static_cast<size_t>(num_keys * stride), 0.0f);
        for (int64_t k = 0; k < num_keys; ++k)
            std::copy_n(&values_[k * dim_], dim_, packed + k * stride);
        return packed;
    }

    int64_t dim_;
    int hole_;
    std::vector<float> queries_, keys_, values_;
    Guarded<float> query_buffer_{max_tile_rows * max_dim}, out_buffer_{max_tile_rows * max_dim};
    Guarded<float> key_buffer_{max_padded * max_dim}, value_buffer_{max_keys * max_stride};
    Guarded<float> score_buffer_{max_tile_rows * max_padded};
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
            check(near(value, reference[d], 2e-6 * (1.0 + std::fabs(reference[d]))),
                  "far from double");
        }
    }
}

void check_head(const KernelTable& table, Side side, Head& head, int hole) {
    for (int num_keys = 1; num_keys <= max_keys;
         num_keys += num_keys < 34 && hole == 0 ? step_of(4) : 7)
        for (int rows = 1; rows <= table.query_rows; ++rows)
            for (const bool stepped : {false, true}) {
                current_case = std::string(table.isa) + " dim " + std::to_string(head.dim()) +
                               " keys " + std::to_string(num_keys) + " rows " +
                               std::to_string(rows) + " hole " + std::to_string(hole);
                check_rows(table, side, head, visibility(rows, num_keys, stepped));
            }
}

}  // namespace

int main() {
    for (const int64_t dim : {1, 2, 8, 15, 16, 17, 32, 64, 70, 128, 130})
        for (const int hole : {0, 3, 17}) {
            Head head(dim, hole);
            for (const KernelTable* table : all_tables())
                for (const Side side : both_sides) check_head(*table, side, head, hole);
        }
    return verdict();
}

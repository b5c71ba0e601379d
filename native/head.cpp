#include "head.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "errors.h"
#include "philox.h"

namespace edge {
namespace {

constexpr int64_t tile_panels = 16;
constexpr int64_t tile_cols = tile_panels * panel_cols;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

// -log(-log(u)) for u in (0, 1) can be no larger than this with 32 random bits.
constexpr double largest_gumbel = 22.9;

double gumbel(uint32_t bits) {
    const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-32;
    return -std::log(-std::log(uniform));
}

uint32_t random_bits(const HeadOptions& options, int32_t position, int64_t token) {
    const auto four =
        philox({static_cast<uint32_t>(token / 4), static_cast<uint32_t>(position), options.draw, 0},
               {static_cast<uint32_t>(options.seed), static_cast<uint32_t>(options.seed >> 32)});
    return four[static_cast<size_t>(token % 4)];
}

// Give the ids that must not be chosen a logit of minus infinity.
void forbid(float* logits, int64_t first, int64_t count, const HeadOptions& options) {
    for (int64_t i = std::max<int64_t>(0, options.num_choices - first); i < count; ++i)
        logits[i] = minus_infinity;
    for (const int32_t id : options.forbidden)
        if (id >= first && id < first + count) logits[id - first] = minus_infinity;
}

}  // namespace

bool Head::run(const Machine& machine, const WeightMatrix& weights, const LinearInput& input,
               const std::vector<int32_t>& positions, const HeadOptions& options,
               const std::function<bool()>& stop, std::vector<HeadRow>& rows) {
    const int64_t num_rows = input.rows();
    const int64_t num_tiles = (weights.num_panels() + tile_panels - 1) / tile_panels;
    logits_.resize(static_cast<size_t>(machine.pool.num_threads() * num_rows * tile_cols));
    tiles_.resize(static_cast<size_t>(num_tiles * num_rows));
    std::atomic<bool> stopped{false};
    machine.pool.run(num_tiles, [&](int64_t tile, int worker) {
        if (stopped || (stop() && (stopped = true))) return;
        float* logits = logits_.data() + worker * num_rows * tile_cols;
        evaluate_tile(machine, weights, input, tile, logits);
        const int64_t first = tile * tile_cols;
        const int64_t count = std::min(tile_cols, weights.num_outputs() - first);
        for (int64_t r = 0; r < num_rows; ++r)
            tiles_[static_cast<size_t>(tile * num_rows + r)] =
                reduce(machine.kernels, logits + r * tile_cols, first, count,
                       positions[static_cast<size_t>(r)], options);
    });
    if (stopped) return false;
    rows.clear();
    for (int64_t r = 0; r < num_rows; ++r)
        rows.push_back(merge(tiles_.data() + r, num_tiles, num_rows));
    return true;
}

void Head::evaluate_tile(const Machine& machine, const WeightMatrix& weights,
                         const LinearInput& input, int64_t tile, float* logits) {
    const int64_t first = tile * tile_panels;
    const int64_t last = std::min(first + tile_panels, weights.num_panels());
    multiply_panels(machine, input, weights, first, last, logits, tile_cols);
}

Head::TileRow Head::reduce(const KernelTable& kernels, float* logits, int64_t first, int64_t count,
                           int32_t position, const HeadOptions& options) {
    TileRow row{kernels.logit_moments(logits, count),
                -1,
                minus_infinity,
                minus_infinity,
                -1,
                minus_infinity,
                -std::numeric_limits<double>::infinity()};
    forbid(logits, first, count, options);
    row.top1_logit = kernels.maximum(logits, count);
    if (!(row.top1_logit > minus_infinity)) return row;
    const int64_t best = std::find(logits, logits + count, row.top1_logit) - logits;
    if (best == count) return row;  // only when a logit is NaN, which the moments report
    row.top1 = static_cast<int32_t>(first + best);
    row.top2_logit = std::max(kernels.maximum(logits, best),
                              kernels.maximum(logits + best + 1, count - best - 1));
    if (!(options.temperature > 0.0f)) {
        row.sampled = row.top1;
        row.sampled_logit = row.top1_logit;
        row.sampled_score = row.top1_logit;
        return row;
    }
    for (int64_t i = 0; i < count; ++i) {
        const double tempered =
            static_cast<double>(logits[i]) / static_cast<double>(options.temperature);
        if (!(tempered + largest_gumbel > row.sampled_score)) continue;  // no noise can make it win
        const double score = tempered + gumbel(random_bits(options, position, first + i));
        if (!(score > row.sampled_score)) continue;
        row.sampled = static_cast<int32_t>(first + i);
        row.sampled_logit = logits[i];
        row.sampled_score = score;
    }
    return row;
}

HeadRow Head::merge(const TileRow* tiles, int64_t num_tiles, int64_t stride) {
    HeadRow out{-1, -1, minus_infinity, minus_infinity, minus_infinity, 0.0f, 0.0f};
    double sampled_score = -std::numeric_limits<double>::infinity();
    float maximum = minus_infinity;
    for (int64_t t = 0; t < num_tiles; ++t)
        maximum = std::max(maximum, tiles[t * stride].moments.maximum);
    double sum_exp = 0.0;
    double sum_weighted = 0.0;
    for (int64_t t = 0; t < num_tiles; ++t) {
        const TileRow& tile = tiles[t * stride];
        const double distance = static_cast<double>(tile.moments.maximum) - maximum;
        const double weight = std::exp(distance);
        sum_exp += weight * tile.moments.sum_exp;
        sum_weighted += weight * (tile.moments.sum_weighted + distance * tile.moments.sum_exp);
        if (tile.top1_logit > out.top1_logit) {
            out.top2_logit = std::max(out.top1_logit, tile.top2_logit);
            out.top1_logit = tile.top1_logit;
            out.top1 = tile.top1;
        } else {
            out.top2_logit = std::max(out.top2_logit, tile.top1_logit);
        }
        if (tile.sampled_score > sampled_score) {
            sampled_score = tile.sampled_score;
            out.sampled = tile.sampled;
            out.sampled_logit = tile.sampled_logit;
        }
    }
    out.log_z = static_cast<float>(maximum + std::log(sum_exp));
    out.entropy = static_cast<float>(std::max(0.0, std::log(sum_exp) - sum_weighted / sum_exp));
    if (!std::isfinite(out.log_z) || !std::isfinite(out.entropy) || out.top1 < 0)
        throw NumericFault("the head's logits are not finite");
    return out;
}

}  // namespace edge

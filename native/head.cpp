#include "head.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "errors.h"

namespace edge {
namespace {

constexpr int64_t tile_panels = 16;
constexpr int64_t tile_cols = tile_panels * panel_cols;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

}  // namespace

bool Head::run(const Machine& machine, const WeightMatrix& weights, const LinearInput& input,
               const std::vector<int32_t>& positions, const HeadOptions& options,
               const std::function<bool()>& stop, std::vector<HeadRow>& rows) {
    const int64_t num_rows = input.rows();
    const int64_t num_tiles = (weights.num_panels() + tile_panels - 1) / tile_panels;
    logits_.resize(static_cast<size_t>(machine.pool.num_threads() * num_rows * tile_cols));
    tiles_.resize(static_cast<size_t>(num_tiles * num_rows));
    whole_.resize(static_cast<size_t>(options.truncates() ? num_rows * weights.num_outputs() : 0));
    std::atomic<bool> stopped{false};
    machine.pool.run({num_tiles, operations(input, weights)}, [&](int64_t tile, int worker) {
        if (stopped || (stop() && (stopped = true))) return;
        float* logits = logits_.data() + worker * num_rows * tile_cols;
        evaluate_tile(machine, weights, input, tile, logits);
        const int64_t first = tile * tile_cols;
        const int64_t count = std::min(tile_cols, weights.num_outputs() - first);
        for (int64_t r = 0; r < num_rows; ++r) {
            float* row = logits + r * tile_cols;
            tiles_[static_cast<size_t>(tile * num_rows + r)] = reduce(
                machine.kernels, row, first, count, r, positions[static_cast<size_t>(r)], options);
            if (options.truncates())
                std::copy_n(row, count, whole_.data() + r * weights.num_outputs() + first);
        }
    });
    if (stopped) return false;
    rows.clear();
    for (int64_t r = 0; r < num_rows; ++r)
        rows.push_back(
            head_row(tiles_.data() + r, num_tiles, num_rows, !options.bias.starts.empty()));
    if (options.truncates()) draw_rows(machine, positions, options, rows);
    return true;
}

// Replaces each row's drawn token by one from the truncated distribution.
void Head::draw_rows(const Machine& machine, const std::vector<int32_t>& positions,
                     const HeadOptions& options, std::vector<HeadRow>& rows) {
    const auto num_rows = static_cast<int64_t>(rows.size());
    const int64_t vocab_size = static_cast<int64_t>(whole_.size()) / num_rows;
    machine.pool.run({num_rows, num_rows * vocab_size * quantized_element}, [&](int64_t r, int) {
        const auto index = static_cast<size_t>(r);
        const DrawnToken drawn =
            draw_truncated(whole_.data() + r * vocab_size, vocab_size, positions[index], options);
        rows[index].sampled = drawn.id;
        rows[index].sampled_logit = drawn.logit;
    });
}

void Head::evaluate_tile(const Machine& machine, const WeightMatrix& weights,
                         const LinearInput& input, int64_t tile, float* logits) {
    const int64_t first = tile * tile_panels;
    const int64_t last = std::min(first + tile_panels, weights.num_panels());
    multiply_panels(machine, input, weights, first, last, logits, tile_cols);
}

Head::TileRow Head::reduce(const KernelTable& kernels, float* logits, int64_t first, int64_t count,
                           int64_t row, int32_t position, const HeadOptions& options) {
    TileRow tile;
    const bool biased = options.bias.touches(row, first, count);
    if (biased) {
        std::array<float, tile_cols> plain;
        std::copy_n(logits, count, plain.data());
        tile.plain = figures_of(kernels, plain.data(), first, count, options);
        options.bias.add(row, first, count, logits);
    }
    tile.figures = figures_of(kernels, logits, first, count, options);
    if (!biased) tile.plain = tile.figures;
    const Figures& figures = tile.figures;
    tile.drawn = {figures.top1, figures.top1_logit, figures.top1_logit};
    if (figures.top1 >= 0 && options.draws() && !options.truncates())
        tile.drawn = draw(logits, first, count, position, options);
    return tile;
}

// Forbids what may not be chosen, after the moments are taken.
Head::Figures Head::figures_of(const KernelTable& kernels, float* logits, int64_t first,
                               int64_t count, const HeadOptions& options) {
    Figures figures{kernels.logit_moments(logits, count), -1, minus_infinity, minus_infinity};
    forbid(logits, first, count, options);
    const TopTwo top = kernels.top_two(logits, count);
    if (top.index < 0) return figures;  // a logit that is NaN is reported by the moments
    figures.top1 = static_cast<int32_t>(first + top.index);
    figures.top1_logit = top.first;
    figures.top2_logit = top.second;
    return figures;
}

Head::RowFigures Head::merge(const TileRow* tiles, int64_t num_tiles, int64_t stride,
                             Figures TileRow::* part) {
    RowFigures out{-1, minus_infinity, minus_infinity, 0.0f, 0.0f};
    float maximum = minus_infinity;
    for (int64_t t = 0; t < num_tiles; ++t)
        maximum = std::max(maximum, (tiles[t * stride].*part).moments.maximum);
    double sum_exp = 0.0;
    double sum_weighted = 0.0;
    for (int64_t t = 0; t < num_tiles; ++t) {
        const Figures& tile = tiles[t * stride].*part;
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
    }
    out.log_z = static_cast<float>(maximum + std::log(sum_exp));
    out.entropy = static_cast<float>(std::max(0.0, std::log(sum_exp) - sum_weighted / sum_exp));
    if (!std::isfinite(out.log_z) || !std::isfinite(out.entropy) || out.top1 < 0)
        throw NumericFault("the head's logits are not finite");
    return out;
}

HeadRow Head::head_row(const TileRow* tiles, int64_t num_tiles, int64_t stride, bool biased) {
    const RowFigures figures = merge(tiles, num_tiles, stride, &TileRow::figures);
    const RowFigures plain = biased ? merge(tiles, num_tiles, stride, &TileRow::plain) : figures;
    DrawnToken drawn{-1, minus_infinity, -std::numeric_limits<double>::infinity()};
    for (int64_t t = 0; t < num_tiles; ++t)
        if (tiles[t * stride].drawn.score > drawn.score) drawn = tiles[t * stride].drawn;
    return {figures.top1,  drawn.id,        figures.top1_logit, figures.top2_logit, drawn.logit,
            figures.log_z, figures.entropy, plain.top1,         plain.top1_logit,   plain.log_z};
}

}  // namespace edge

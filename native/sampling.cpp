#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "philox.h"

namespace edge {
namespace {

// -log(-log(u)) for u in (0, 1) can be no larger than this with 32 random bits.
constexpr double largest_gumbel = 22.9;

double gumbel(uint32_t bits) {
    const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-32;
    return -std::log(-std::log(uniform));
}

double noise(const HeadOptions& options, int32_t position, int64_t id) {
    const auto four =
        philox({static_cast<uint32_t>(id / 4), static_cast<uint32_t>(position), options.draw, 0},
               {static_cast<uint32_t>(options.seed), static_cast<uint32_t>(options.seed >> 32)});
    return gumbel(four[static_cast<size_t>(id % 4)]);
}

// Lets the best of the ids offered win.
class Contest {
public:
    Contest(int32_t position, const HeadOptions& options)
        : position_(position), options_(options) {}

    void offer(int64_t id, float logit) {
        const double tempered =
            static_cast<double>(logit) / static_cast<double>(options_.temperature);
        if (!(tempered + largest_gumbel > best_.score)) return;  // no noise can make it win
        const double score = tempered + noise(options_, position_, id);
        if (score > best_.score) best_ = {static_cast<int32_t>(id), logit, score};
    }

    DrawnToken winner() const { return best_; }

private:
    int32_t position_;
    const HeadOptions& options_;
    DrawnToken best_{-1, -std::numeric_limits<float>::infinity(),
                     -std::numeric_limits<double>::infinity()};
};

// Ids of the `count` largest logits, largest first, of equal ones the smaller id first.
std::vector<int32_t> largest(const float* logits, int64_t size, int64_t count) {
    std::vector<int32_t> ids(static_cast<size_t>(size));
    std::iota(ids.begin(), ids.end(), 0);
    std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), [&](int32_t a, int32_t b) {
        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    ids.resize(static_cast<size_t>(count));
    return ids;
}

double tempered_weight(float logit, float highest, const HeadOptions& options) {
    return std::exp((static_cast<double>(logit) - highest) / options.temperature);
}

// How many of the ordered ids reach `wanted` of weight; 0 when all together do not.
size_t count_reaching(const std::vector<int32_t>& ids, const float* logits, double wanted,
                      const HeadOptions& options) {
    double reached = 0.0;
    for (size_t i = 0; i < ids.size(); ++i) {
        reached += tempered_weight(logits[ids[i]], logits[ids[0]], options);
        if (reached >= wanted) return i + 1;
    }
    return 0;
}

double total_weight(const float* logits, int64_t count, const HeadOptions& options) {
    const float highest = *std::max_element(logits, logits + count);
    double total = 0.0;
    for (int64_t id = 0; id < count; ++id) total += tempered_weight(logits[id], highest, options);
    return total;
}

double weight_of(const std::vector<int32_t>& ids, const float* logits, const HeadOptions& options) {
    double total = 0.0;
    for (const int32_t id : ids) total += tempered_weight(logits[id], logits[ids[0]], options);
    return total;
}

std::vector<int32_t> kept_ids(const float* logits, int64_t count, const HeadOptions& options) {
    const int64_t most = options.top_k > 0 ? std::min(options.top_k, count) : count;
    const int64_t enough = options.top_k > 0 ? most : std::min<int64_t>(64, most);
    std::vector<int32_t> ids = largest(logits, count, enough);
    if (!(options.top_p < 1.0f)) return ids;
    const double wanted =
        options.top_p * (options.top_k > 0 ? weight_of(ids, logits, options)
                                           : total_weight(logits, count, options));
    // Few tokens usually hold nearly all the weight, so a growing beginning is sorted.
    for (int64_t sorted = static_cast<int64_t>(ids.size());;) {
        const size_t kept = count_reaching(ids, logits, wanted, options);
        if (kept != 0) ids.resize(kept);
        if (kept != 0 || sorted == most) return ids;
        sorted = std::min(sorted * 8, most);
        ids = largest(logits, count, sorted);
    }
}

}  // namespace

bool LogitBias::touches(int64_t row, int64_t first, int64_t count) const {
    if (starts.empty()) return false;
    const auto begin = ids.begin() + starts[static_cast<size_t>(row)];
    const auto end = ids.begin() + starts[static_cast<size_t>(row + 1)];
    return std::any_of(begin, end, [&](int32_t id) { return id >= first && id < first + count; });
}

void LogitBias::add(int64_t row, int64_t first, int64_t count, float* logits) const {
    const auto end = static_cast<size_t>(starts[static_cast<size_t>(row + 1)]);
    for (auto i = static_cast<size_t>(starts[static_cast<size_t>(row)]); i < end; ++i)
        if (ids[i] >= first && ids[i] < first + count) logits[ids[i] - first] += values[i];
}

void forbid(float* logits, int64_t first, int64_t count, const HeadOptions& options) {
    constexpr float never = -std::numeric_limits<float>::infinity();
    for (int64_t i = std::max<int64_t>(0, options.num_choices - first); i < count; ++i)
        logits[i] = never;
    for (const int32_t id : options.forbidden)
        if (id >= first && id < first + count) logits[id - first] = never;
}

DrawnToken draw(const float* logits, int64_t first, int64_t count, int32_t position,
                const HeadOptions& options) {
    Contest contest(position, options);
    for (int64_t i = 0; i < count; ++i) contest.offer(first + i, logits[i]);
    return contest.winner();
}

DrawnToken draw_truncated(const float* logits, int64_t count, int32_t position,
                          const HeadOptions& options) {
    Contest contest(position, options);
    for (const int32_t id : kept_ids(logits, count, options)) contest.offer(id, logits[id]);
    return contest.winner();
}

}  // namespace edge

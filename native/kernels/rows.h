// Row-wise kernels on 16 lanes; included by each ISA's table after its lanes.h.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/unrolled.h"

namespace edge {
namespace {

// Calls visit(index, count) for runs of 16 and a shorter last one.
template <typename Visit>
inline void for_lanes(int64_t count, Visit visit) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) visit(i, 16);
    if (i < count) visit(i, static_cast<int>(count - i));
}

inline Lanes load_run(const float* p, int n) { return n == 16 ? load(p) : load_first(p, n); }
inline void store_run(float* p, Lanes x, int n) { n == 16 ? store(p, x) : store_first(p, x, n); }

// Cephes' expf: 2^n times a polynomial on [-ln2/2, ln2/2], relative error below 2e-7. Results
// below 2^-126 become 2^-126; NaN stays NaN.
inline Lanes exp(Lanes x) {
    x = min(splat(88.0f), max(splat(-87.0f), x));
    const Lanes n = round_even(mul(x, splat(1.44269504f)));
    Lanes r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Lanes p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), splat(1.0f));
    return scale_by_power(p, n);
}

inline float maximum(const float* x, int64_t count) {
    Lanes high = splat(-std::numeric_limits<float>::infinity());
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) high = max(high, load(x + i));
    float best = largest(high);
    for (; i < count; ++i) best = best > x[i] ? best : x[i];
    return best;
}

float rms_norm(const float* x, const float* weight, int64_t count, float eps, float* out) {
    Lanes squares = zero();
    for_lanes(count, [&](int64_t i, int n) {
        const Lanes v = load_run(x + i, n);
        squares = fma(v, v, squares);
    });
    const float mean_square = sum(squares) / static_cast<float>(count);
    const Lanes inverse = splat(1.0f / std::sqrt(mean_square + eps));
    for_lanes(count, [&](int64_t i, int n) {
        store_run(out + i, mul(mul(load_run(x + i, n), inverse), load_run(weight + i, n)), n);
    });
    return mean_square;
}

void silu_multiply(const float* gate, const float* up, int64_t count, float* out) {
    for_lanes(count, [&](int64_t i, int n) {
        const Lanes g = load_run(gate + i, n);
        const Lanes silu = div(g, add(splat(1.0f), exp(sub(zero(), g))));
        store_run(out + i, mul(silu, load_run(up + i, n)), n);
    });
}

void exponentials(const float* x, int64_t count, float* out) {
    for_lanes(count, [&](int64_t i, int n) { store_run(out + i, exp(load_run(x + i, n)), n); });
}

void add_row(const float* x, int64_t count, float* total) {
    for_lanes(count, [&](int64_t i, int n) {
        store_run(total + i, add(load_run(total + i, n), load_run(x + i, n)), n);
    });
}

void add_scaled_row(const float* x, float scale, int64_t count, float* total) {
    for_lanes(count, [&](int64_t i, int n) {
        store_run(total + i, fma(load_run(x + i, n), splat(scale), load_run(total + i, n)), n);
    });
}

// max|x|, made NaN by any x that is not finite (0 * x is NaN for infinities too). In chains that
// take turns, since each addition waits for the one before.
inline float largest_magnitude(const float* x, int64_t count) {
    constexpr int chains = 2;
    Lanes high[chains] = {zero(), zero()};
    Lanes poison[chains] = {zero(), zero()};
    const auto take = [&](int chain, Lanes v) {
        high[chain] = max(high[chain], abs(v));
        poison[chain] = fma(v, zero(), poison[chain]);
    };
    int64_t i = 0;
    for (; i + chains * 16 <= count; i += chains * 16)
        unrolled<chains>([&](int c) { take(c, load(x + i + c * 16)); });
    for_lanes(count - i, [&](int64_t k, int n) { take(0, load_run(x + i + k, n)); });
    return largest(max(high[0], high[1])) + sum(add(poison[0], poison[1]));
}

// Four values each go to places `stride` bytes apart; take_sum gets the sums of runs of `run`.
// Returns as KernelTable::quantize_row.
template <typename TakeSum>
inline float quantize(const float* x, int64_t count, int8_t* place, int64_t stride, int64_t run,
                      TakeSum take_sum) {
    const float magnitude = largest_magnitude(x, count);
    if (!std::isfinite(magnitude)) return std::numeric_limits<float>::quiet_NaN();
    const Lanes inverse = splat(magnitude > 1e-30f ? 127.0f / magnitude : 0.0f);
    for (int64_t first = 0; first < count; first += run) {
        Lanes total = zero();
        for_lanes(run < count - first ? run : count - first, [&](int64_t i, int n) {
            int8_t values[16];
            const Lanes rounded = round_even(mul(load_run(x + first + i, n), inverse));
            store_int8(values, rounded);
            total = add(total, rounded);
            for (int k = 0; k < n; k += 4, place += stride) std::memcpy(place, values + k, 4);
        });
        take_sum(static_cast<int32_t>(sum(total)));
    }
    return magnitude > 1e-30f ? magnitude / 127.0f : 0.0f;
}

float quantize_row(const float* x, int64_t depth, const QuantizedRowSink& sink) {
    int32_t* sums = sink.sums;
    return quantize(x, depth, sink.values, sink.stride, sink.run,
                    [&](int32_t total) { *sums++ = total; });
}

// Each lane keeps its two largest.
TopTwo top_two(const float* x, int64_t count) {
    constexpr float none = -std::numeric_limits<float>::infinity();
    Lanes best = splat(none), second = best;
    const auto take = [&](Lanes v) {
        second = max(second, min(best, v));
        best = max(best, v);
    };
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) take(load(x + i));
    if (i < count) {
        float rest[16];
        for (int k = 0; k < 16; ++k) rest[k] = i + k < count ? x[i + k] : none;
        take(load(rest));
    }
    TopTwo top{-1, largest(best), none};
    if (!(top.first > none)) return {-1, none, none};
    float bests[16], seconds[16];
    store(bests, best);
    store(seconds, second);
    for (int64_t lane = 0; lane < 16; ++lane) {
        if (bests[lane] != top.first) continue;
        int64_t k = lane;
        while (x[k] != top.first) k += 16;
        if (top.index < 0 || k < top.index) top.index = k;
    }
    for (int64_t lane = 0; lane < 16; ++lane) {
        const float other = lane == top.index % 16 ? seconds[lane] : bests[lane];
        if (other > top.second) top.second = other;
    }
    return top;
}

LogitMoments logit_moments(const float* x, int64_t count) {
    const float high = maximum(x, count);
    Lanes total = zero();
    Lanes weighted = zero();
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const Lanes distance = sub(load(x + i), splat(high));
        const Lanes e = exp(distance);
        total = add(total, e);
        weighted = fma(distance, e, weighted);
    }
    LogitMoments moments{high, sum(total), sum(weighted)};
    if (i < count) {
        float distances[16];
        float exps[16];
        const int rest = static_cast<int>(count - i);
        store(distances, sub(load_first(x + i, rest), splat(high)));
        store(exps, exp(load(distances)));
        for (int k = 0; k < rest; ++k) {
            moments.sum_exp += exps[k];
            moments.sum_weighted = std::fmaf(distances[k], exps[k], moments.sum_weighted);
        }
    }
    return moments;
}

}  // namespace
}  // namespace edge

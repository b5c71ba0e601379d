// Bursts of the ISA's fastest arithmetic on registers alone, to know what it can do at most;
// included by each ISA's table after its lanes.h.
#pragma once

#include "kernels/unrolled.h"

namespace edge {
namespace {

// The compiler may neither merge two chains nor move a product out of the loop: chains start
// differently, and forget() makes each product one of unknown weights.
inline void add_products(Line& line, const int8_t* activations, StepSums<4> (&sums)[burst_chains]) {
    unrolled<burst_chains>([&](int c) {
        forget(line);
        sums[c] = dot4<4>(sums[c], line, activations);
    });
}

// A round is a step of the depth.
void burst_int8(const uint8_t* weights, const int8_t* activations, int64_t rounds, float* out) {
    Line line = load_line(weights);
    IntLanes acc[burst_chains];
    unrolled<burst_chains>([&](int c) { acc[c] = start<4>(c); });
    for (int64_t i = 0; i < rounds; ++i) {
        StepSums<4> sums[burst_chains];
        unrolled<burst_chains>([&](int c) { sums[c] = begin_step<4>(acc[c]); });
        for (int k = 0; k < depth_step; k += 8) {
            add_products(line, activations, sums);
            add_products(line, activations + 4, sums);
        }
        unrolled<burst_chains>([&](int c) { acc[c] = end_step<4>(acc[c], sums[c]); });
    }
    unrolled<burst_chains>([&](int c) { store(out + c * 16, to_float(acc[c])); });
}

void burst_float(float x, float y, int64_t rounds, float* out) {
    const Lanes factor = splat(x);
    const Lanes term = splat(y);
    Lanes acc[burst_chains];
    unrolled<burst_chains>([&](int c) { acc[c] = load(out + c * 16); });
    for (int64_t i = 0; i < rounds; ++i)
        unrolled<burst_chains>([&](int c) { acc[c] = fma(acc[c], factor, term); });
    unrolled<burst_chains>([&](int c) { store(out + c * 16, acc[c]); });
}

// A bfloat16 is the upper half of a float.
void burst_bf16(float x, float y, int64_t rounds, float* out) {
    uint8_t line[line_bytes];
    for (int i = 0; i < line_bytes; i += 2)
        std::memcpy(line + i, reinterpret_cast<const uint8_t*>(&x) + 2, 2);
    Half operands[16];
    store_halves(operands, splat(y));
    const Pairs pairs = load_pairs(line);
    Lanes acc[burst_chains];
    unrolled<burst_chains>([&](int c) { acc[c] = load(out + c * 16); });
    for (int64_t i = 0; i < rounds; ++i)
        unrolled<burst_chains>([&](int c) { acc[c] = dot2(acc[c], pairs, operands); });
    unrolled<burst_chains>([&](int c) { store(out + c * 16, acc[c]); });
}

}  // namespace
}  // namespace edge

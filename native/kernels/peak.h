// Bursts of the ISA's fastest arithmetic on registers alone, to know what it can do at most;
// included by each ISA's table after its lanes.h.
#pragma once

namespace edge {
namespace {

// The compiler may neither merge two chains nor move a product out of the loop: chains start
// differently, and forget() makes each product one of unknown weights.
inline void add_products(Line& line, const int8_t* activations, StepSums<4> (&sums)[burst_chains]) {
    for (int c = 0; c < burst_chains; ++c) {
        forget(line);
        sums[c] = dot4<4>(sums[c], line, activations);
    }
}

// A round is a step of the depth.
void burst_int8(const uint8_t* weights, const int8_t* activations, int64_t rounds, float* out) {
    Line line = load_line(weights);
    IntLanes acc[burst_chains];
    for (int c = 0; c < burst_chains; ++c) acc[c] = start<4>(c);
    for (int64_t i = 0; i < rounds; ++i) {
        StepSums<4> sums[burst_chains];
        for (int c = 0; c < burst_chains; ++c) sums[c] = begin_step<4>(acc[c]);
        for (int k = 0; k < depth_step; k += 8) {
            add_products(line, activations, sums);
            add_products(line, activations + 4, sums);
        }
        for (int c = 0; c < burst_chains; ++c) acc[c] = end_step<4>(acc[c], sums[c]);
    }
    for (int c = 0; c < burst_chains; ++c) store(out + c * 16, to_float(acc[c]));
}

void burst_float(float x, float y, int64_t rounds, float* out) {
    const Lanes factor = splat(x);
    const Lanes term = splat(y);
    Lanes acc[burst_chains];
    for (int c = 0; c < burst_chains; ++c) acc[c] = load(out + c * 16);
    for (int64_t i = 0; i < rounds; ++i)
        for (int c = 0; c < burst_chains; ++c) acc[c] = fma(acc[c], factor, term);
    for (int c = 0; c < burst_chains; ++c) store(out + c * 16, acc[c]);
}

}  // namespace
}  // namespace edge

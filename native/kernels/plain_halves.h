// Products with pairs of bfloat16 for ISAs without an instruction for them; included by their
// tables after their lanes.
#pragma once

namespace edge {
namespace {

using Half = float;  // an operand, rounded to bfloat16

struct Pairs {
    Lanes first, second;
};

inline Pairs load_pairs(const uint8_t* line) {
    const Line pairs = load_line(line);
    return {low_halves(pairs), high_halves(pairs)};
}
inline Pairs pairs_of(Lanes first, Lanes second) { return {first, second}; }
inline Lanes dot2(Lanes acc, const Pairs& pairs, const Half* a) {
    return fma(splat(a[0]), pairs.first, fma(splat(a[1]), pairs.second, acc));
}
inline void store_halves(Half* p, Lanes x) { store(p, round_bf16(x)); }

}  // namespace
}  // namespace edge

// Steps of the depth without sums of their own; included by the tables of ISAs that add to 32 bits
// at once, after their lanes.
#pragma once

namespace edge {
namespace {

constexpr bool steps_have_sums = false;

template <int bits>
using StepSums = IntLanes;
template <int bits>
inline IntLanes begin_step(IntLanes acc) {
    return acc;
}
template <int bits>
inline IntLanes end_step(IntLanes, IntLanes acc) {
    return acc;
}

}  // namespace
}  // namespace edge

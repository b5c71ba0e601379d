// The bursts behind the peak rates compute what they say, on every ISA, and so cannot have been
// optimised away.
#include "check.h"
#include "peak.h"
#include "tables.h"

using namespace edge;
using namespace edge::test;

namespace {

constexpr int64_t num_rounds = 37;

std::vector<float> room_for(const KernelTable& table) {
    return std::vector<float>(static_cast<size_t>(table.burst_chains) * 16);
}

void check_int8(const KernelTable& table) {
    current_case = std::string(table.isa) + " burst_int8";
    uint8_t weights[line_bytes];
    for (int i = 0; i < line_bytes; ++i) weights[i] = static_cast<uint8_t>(i * 7 % 16);
    const int8_t activations[8] = {127, -3, 5, 0, -127, 9, -6, 11};
    std::vector<float> out = room_for(table);
    table.burst_int8(weights, activations, num_rounds, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
        int64_t round = 0;
        for (size_t k = 0; k < depth_step; ++k)
            round += weights[i % 16 * 4 + k % 4] * activations[k % 8];
        const auto chain = static_cast<int64_t>(i / 16);
        check(out[i] == static_cast<float>(chain + num_rounds * round), "another sum");
    }
}

void check_float(const KernelTable& table) {
    current_case = std::string(table.isa) + " burst_float";
    const std::vector<float> begin = random_floats(room_for(table).size(), 1);
    std::vector<float> out = begin;
    table.burst_float(0.75f, 1.1f, num_rounds, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
        float wanted = begin[i];
        for (int64_t round = 0; round < num_rounds; ++round)
            wanted = std::fmaf(wanted, 0.75f, 1.1f);
        check(same(out[i], wanted), "another sum");
    }
}

void check_rates(const KernelTable& table) {
    current_case = std::string(table.isa) + " rates";
    const PeakRates rates = measure_peak(2, table.isa);
    check(std::isfinite(rates.int8_gops) && rates.int8_gops > 0.0, "no int8 rate");
    check(std::isfinite(rates.float_gops) && rates.float_gops > 0.0, "no float rate");
    check(std::isfinite(rates.bf16_gops) && rates.bf16_gops > 0.0, "no bf16 rate");
    check(std::isfinite(rates.clock_ghz) && rates.clock_ghz > 0.0, "no clock");
}

}  // namespace

int main() {
    for (const KernelTable* table : all_tables()) {
        check_int8(*table);
        check_float(*table);
        check_rates(*table);
    }
    const double read_rate = measure_read_rate(2);
    check(std::isfinite(read_rate) && read_rate > 0.0, "no read rate");
    return verdict();
}

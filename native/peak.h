// The arithmetic peak of this machine with one kernel table and some threads.
#pragma once

#include <string>

namespace edge {

// In 10^9 operations a second; a multiply-add counts as two.
struct PeakRates {
    double int8_gops;
    double float_gops;
    double bf16_gops;  // by float multiply-adds where there is nothing faster
    double clock_ghz;  // at which a core did dependent additions, one per cycle
};

// Best of 50 bursts of about two milliseconds, of all threads that have a core to run on, on
// registers, no memory touched; other work on the machine does not lower the rates. Throws
// std::invalid_argument for threads beyond 1 to 1024 and like select_kernels.
PeakRates measure_peak(int num_threads, const std::string& isa);

// Bytes a nanosecond that so many threads together read from memory: the best of several passes
// over more than caches hold. Throws std::invalid_argument like measure_peak, and std::bad_alloc.
double measure_read_rate(int num_threads);

}  // namespace edge

// Where a step's time goes, by the wall clock of the thread that asked for it.
#pragma once

#include <chrono>
#include <cstdint>

namespace edge {

// On the steady clock, which is Python's time.monotonic_ns too.
inline int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

// The parts of a step; they sum to all of it.
struct StepTimes {
    int64_t gemm_ns = 0;       // linear layers, the head not among them
    int64_t attention_ns = 0;  // packing keys and values, scores, softmax, mixing the values
    int64_t quantize_ns = 0;   // making int8 rows, in one pass with the norm or activation before
    int64_t head_ns = 0;       // final norm, head, statistics of its rows
    int64_t other_ns = 0;
};

// A stopwatch that charges all time since its last reading to one part.
class StepClock {
public:
    void restart() {
        times_ = {};
        last_ns_ = now_ns();
    }
    void charge(int64_t StepTimes::* part) {
        const int64_t now = now_ns();
        times_.*part += now - last_ns_;
        last_ns_ = now;
    }
    const StepTimes& times() const { return times_; }

private:
    StepTimes times_;
    int64_t last_ns_ = 0;
};

}  // namespace edge

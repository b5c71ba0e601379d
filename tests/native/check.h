// Checks that say what failed, in which case, and where; a test goes on after a failed one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace edge::test {

// Which of a test's many combinations is running; printed with a failure.
inline std::string current_case;
inline int num_checks = 0;
inline int num_failures = 0;

inline void check(bool holds, const char* what, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
    ++num_checks;
    if (holds || ++num_failures > 20) return;
    std::fprintf(stderr, "%s:%d: %s (%s)\n", file, line, what, current_case.c_str());
}

// The CPU that an emulator pretends to be, nullptr on a real one.
inline const char* emulated_cpu() { return std::getenv("EDGE_EMULATED_CPU"); }

inline bool is_emulated_as(const char* cpu) {
    return emulated_cpu() != nullptr && std::strcmp(emulated_cpu(), cpu) == 0;
}

// The step of a loop over sizes: an emulator is twenty times slower and skips some, so does a
// sanitizer to a lesser degree. Its builds look for bad accesses; all values are checked by others.
inline int step_of(int when_emulated, [[maybe_unused]] int when_sanitized) {
    if (emulated_cpu() != nullptr) return when_emulated;
#ifdef __SANITIZE_ADDRESS__
    return when_sanitized;
#else
    return 1;
#endif
}
inline int step_of(int when_emulated) { return step_of(when_emulated, (when_emulated + 1) / 2); }

// A test's exit code. A test that checked nothing has failed.
inline int verdict() {
    std::printf("%d checks, %d failed\n", num_checks, num_failures);
    return num_failures == 0 && num_checks > 0 ? 0 : 1;
}

// Bit-equal; any NaN equals any other, whose bits IEEE 754 leaves open.
inline bool same(float a, float b) {
    return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

inline bool near(double value, double reference, double tolerance) {
    return std::fabs(value - reference) <= tolerance;
}

inline std::vector<float> random_floats(size_t count, uint32_t seed, float scale = 1.0f) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(count);
    for (float& value : values) value = normal(engine);
    return values;
}

}  // namespace edge::test

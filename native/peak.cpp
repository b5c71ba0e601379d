#include "peak.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "aligned.h"
#include "dispatch.h"
#include "step_clock.h"
#include "thread_pool.h"

namespace edge {
namespace {

constexpr int num_bursts = 50;
constexpr int64_t burst_ns = 2'000'000;
constexpr int64_t first_rounds = 4096;
constexpr int additions_per_round = 64;
constexpr int num_passes = 10;
constexpr int64_t num_pieces = 256;  // with the next, 256 MiB
constexpr int64_t piece_bytes = 1 << 20;

// With all weights 1 a round adds 1 to each sum, so that no number of rounds overflows it.
constexpr int8_t activations[8] = {3, -5, 7, 9, -3, 5, -7, -8};

// The compiler may not merge the additions, and the processor cannot.
void burst_additions(int64_t rounds) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 64
        for (int k = 0; k < additions_per_round; ++k) {
            sum += 1;
            asm volatile("" : "+r"(sum));
        }
    }
}

// On this thread's own clock, which stands still while others have its core.
int64_t thread_ns() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// Runs burst(rounds, out), whose rounds are `round_ops` operations, on every thread at once: cores
// share power, and hardware threads a core. Returns the sum of their operations per nanosecond.
template <typename Burst>
double burst_rate(ThreadPool& pool, int64_t rounds, int64_t round_ops, Burst burst) {
    const auto num_threads = static_cast<size_t>(pool.num_threads());
    std::vector<double> rates(num_threads);
    std::atomic<int> missing{pool.num_threads()};
    pool.run(pool.num_threads(), [&](int64_t, int worker) {
        --missing;
        while (missing > 0) std::this_thread::yield();
        float out[max_burst_chains * 16] = {};
        const int64_t begin = thread_ns();
        burst(rounds, out);
        const int64_t elapsed = std::max<int64_t>(1, thread_ns() - begin);
        rates[static_cast<size_t>(worker)] = static_cast<double>(rounds * round_ops) / elapsed;
    });
    return std::accumulate(rates.begin(), rates.end(), 0.0);
}

int threads_with_a_core(int num_threads) {
    if (num_threads < 1 || num_threads > 1024)
        throw std::invalid_argument("threads must be between 1 and 1024");
    const int num_cpus = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    return std::min(num_threads, num_cpus);
}

uint64_t sum_of(const uint64_t* values, int64_t count) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += values[i];
    return sum;
}

template <typename Burst>
double best_rate(ThreadPool& pool, int64_t round_ops, Burst burst) {
    const double guess = burst_rate(pool, first_rounds, round_ops, burst) / pool.num_threads();
    const auto rounds = static_cast<int64_t>(burst_ns * guess / round_ops) + 1;
    double best = 0.0;
    for (int i = 0; i < num_bursts; ++i)
        best = std::max(best, burst_rate(pool, rounds, round_ops, burst));
    return best;
}

}  // namespace

PeakRates measure_peak(int num_threads, const std::string& isa) {
    const KernelTable& kernels = select_kernels(isa);
    ThreadPool pool(threads_with_a_core(num_threads));
    const int64_t lanes = kernels.burst_chains * 16;
    const std::vector<uint8_t> weights(line_bytes, 1);
    const auto int8 = [&](int64_t rounds, float* out) {
        kernels.burst_int8(weights.data(), activations, rounds, out);
    };
    const auto floats = [&](int64_t rounds, float* out) {
        kernels.burst_float(0.5f, 1.0f, rounds, out);
    };
    const auto halves = [&](int64_t rounds, float* out) {
        kernels.burst_bf16(0.5f, 1.0f, rounds, out);
    };
    const auto additions = [](int64_t rounds, float*) { burst_additions(rounds); };
    return {best_rate(pool, lanes * depth_step * 2, int8), best_rate(pool, lanes * 2, floats),
            best_rate(pool, lanes * 4, halves),
            best_rate(pool, additions_per_round, additions) / pool.num_threads()};
}

double measure_read_rate(int num_threads) {
    ThreadPool pool(threads_with_a_core(num_threads));
    const AlignedBytes bytes = allocate_aligned(num_pieces * piece_bytes);
    std::atomic<uint64_t> sums{0};
    double best = 0.0;
    for (int i = 0; i < num_passes; ++i) {
        const int64_t begin = now_ns();
        pool.run(num_pieces, [&](int64_t piece, int) {
            const std::byte* place = bytes.get() + piece * piece_bytes;
            sums += sum_of(reinterpret_cast<const uint64_t*>(place), piece_bytes / 8);
        });
        best = std::max(best, static_cast<double>(num_pieces * piece_bytes) / (now_ns() - begin));
    }
    return sums == 0 ? best : 0.0;  // they are zeros; asked, so that they are read
}

}  // namespace edge

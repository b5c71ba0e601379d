// Where one thread waits for others: it spins for a moment, then sleeps until it is woken.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

namespace edge {

inline void pause_spinning() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Long enough to bridge the gap between two operations of a layer, short enough that waiting for
// a thread whose core is taken does not burn our own share of the processor.
constexpr auto longest_spin = std::chrono::microseconds(50);

template <typename Condition>
bool spin_until(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + longest_spin;
    do {
        for (int i = 0; i < 32; ++i) {
            if (condition()) return true;
            pause_spinning();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

class Seat {
public:
    // Returns as soon as condition() holds. Who makes it true calls `wake` afterwards.
    template <typename Condition>
    void wait_until(Condition condition) {
        // Who was woken spins once more: waking takes longer than many regions, and whoever slept
        // again because one is over would miss all of them.
        while (!spin_until(condition)) {
            std::unique_lock lock(mutex_);
            asleep_ = true;  // before the last look: either we see the change or we are woken
            if (!condition()) woken_.wait(lock);
            asleep_ = false;
        }
    }

    // Costs one load while nobody sleeps here.
    void wake() {
        if (!asleep_ || !asleep_.exchange(false)) return;
        std::unique_lock lock(mutex_);  // the sleeper has looked, but may not wait yet
        lock.unlock();
        woken_.notify_one();
    }

private:
    std::mutex mutex_;
    std::condition_variable woken_;
    std::atomic<bool> asleep_{false};
};

}  // namespace edge

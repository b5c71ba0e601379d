// How many threads the parallel regions of the next steps get. Nothing here reads a clock or starts
// a thread.
#pragma once

#include <atomic>
#include <cstdint>

namespace edge {

// A region that takes one thread less than this is the caller's alone: handing it out would take
// as long. Tests set it to 0, so that small denoisers use all their threads.
inline std::atomic<int64_t> shortest_shared_ns{4'000};

// What one region cost, by the clock of the thread that asked for it.
struct RegionTimes {
    int64_t operations;  // of the whole region, in the unit of ThreadPool::Work
    int64_t chunks;
    int64_t own_chunks;  // those that the asking thread did itself, in own_ns
    int64_t own_ns;
    int64_t wait_ns;  // from then on, until the last of the others was done

    int64_t elapsed_ns() const { return own_ns + wait_ns; }
    // Waiting that the length of a chunk does not explain: another thread has lost its core.
    int64_t late_ns() const;
};

// A number of threads and what it costs per operation.
struct Level {
    int threads;
    double cost;
};

// A thread that is interrupted amid a chunk lets all others wait for its next turn, milliseconds
// later, so that beside a busy program two threads can be slower than one. Waits of that kind
// start a trial of fewer threads, and time one of more threads; whichever level takes less time
// per operation stays. A lost trial is repeated after twice the time of the one before.
class ThreadGovernor {
public:
    explicit ThreadGovernor(int num_threads)
        : num_threads_(num_threads), active_(num_threads), incumbent_{num_threads, 0.0} {}

    int active() const { return active_; }

    bool is_worth_sharing(int64_t operations) const {
        return estimate_ns(operations) >= shortest_shared_ns;
    }
    // Waking a thread takes longer still; one that is awake joins unasked.
    bool is_worth_waking(int64_t operations) const {
        return estimate_ns(operations) >= 8 * shortest_shared_ns;
    }

    // Regions that were not worth sharing are not recorded.
    void record(const RegionTimes& region);
    // Levels are compared and changed here alone: amid a step, the head's regions would be compared
    // with those of the layers.
    void end_step(int64_t now_ns);

private:
    // The regions of whole steps, long enough together to compare levels.
    struct Window {
        int64_t regions = 0;
        int64_t operations = 0;
        int64_t elapsed_ns = 0;
        int64_t late_ns = 0;

        void add(const RegionTimes& region);
        bool is_full() const { return regions >= 16 && elapsed_ns >= 100'000'000; }
        double cost() const { return static_cast<double>(elapsed_ns) / operations; }
    };

    double estimate_ns(int64_t operations) const;
    void learn_speed(const RegionTimes& region);
    void settle(const Window& window, int64_t now_ns);
    void judge(const Window& window, int64_t now_ns);
    void put_off(int64_t& next, int64_t now_ns);

    int num_threads_;
    int active_;
    Level incumbent_;  // when it is not the active level, that one is on trial
    Window window_;
    double speed_ = 0.0;  // operations per nanosecond and thread; 0: unknown
    int64_t pause_ns_ = first_pause_ns;
    int64_t next_fewer_ns_ = 0;  // no trial of fewer threads before this
    int64_t next_more_ns_ = 0;

    static constexpr int64_t first_pause_ns = 400'000'000;
    static constexpr int64_t longest_pause_ns = 3'200'000'000;
};

}  // namespace edge

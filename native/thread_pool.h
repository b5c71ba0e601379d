// A fixed set of workers that share out numbered chunks of work.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "seat.h"
#include "thread_governor.h"

namespace edge {

// Each thread takes chunks from a run of its own, one after the other as they lie in memory; once
// that is empty it takes over half of another's. So who computes a chunk is not fixed; results
// stay the same for any number of threads because a chunk's result does not depend on its worker.
class ThreadPool {
public:
    using Task = std::function<void(int64_t chunk, int worker)>;

    // What a region consists of. An operation is what takes as long as an int8 multiply-add in a
    // matrix product; the figure decides how many threads are worth their while, not what they do.
    struct Work {
        int64_t num_chunks;
        int64_t operations;  // of all chunks
    };

    // Throws std::system_error when the system does not give as many threads.
    explicit ThreadPool(int num_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int num_threads() const { return static_cast<int>(workers_.size()) + 1; }
    // Threads that regions get at present, at most; fewer beside other busy programs.
    int active_threads() const { return governor_.active(); }

    // Run task(chunk, worker) for chunks 0..num_chunks-1, worker < num_threads(); the caller works
    // too. When a task throws, chunks that have not begun are dropped and the first exception is
    // thrown here. One caller at a time: throws std::logic_error amid another region.
    void run(const Work& work, const Task& task);
    // After regions that together are what is done again and again.
    void end_step();
    // Like the first `run`, with all threads, whatever the work is.
    void run(int64_t num_chunks, const Task& task);

private:
    class Region;

    // Chunks that nobody has begun, the first one and the one after the last in one word. On a
    // cache line of its own: its owner takes from it all the time.
    struct alignas(64) Run {
        std::atomic<uint64_t> ends{0};
    };

    RegionTimes share(const Work& work, const Task& task, int threads, bool wakes);
    void open(int64_t num_chunks, const Task& task, int threads);
    void hand_out(int64_t num_chunks, int threads);
    void close();
    void serve(int worker);
    bool join(int worker, uint64_t& seen);
    void leave();
    int64_t take_chunks(int worker);  // how many
    bool take_over(int worker);
    void stop();

    std::vector<std::thread> workers_;
    std::unique_ptr<Seat[]> seats_;  // the caller's, then the workers'
    std::unique_ptr<Run[]> runs_;
    ThreadGovernor governor_;
    std::atomic<bool> is_running_{false};
    std::atomic<bool> stopping_{false};
    std::mutex failure_mutex_;
    std::exception_ptr failure_;

    // The region at hand; written by the caller while nobody has joined.
    const Task* task_ = nullptr;
    int num_invited_ = 1;
    std::atomic<bool> has_failed_{false};
    // A cache line of its own: all workers look at it all the time.
    alignas(64) std::atomic<uint64_t> state_{0};
};

}  // namespace edge

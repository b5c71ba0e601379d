// A fixed set of workers that share out numbered chunks of work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace edge {

// Chunks are handed out dynamically, so who computes one is not fixed; results stay the same for
// any number of threads because a chunk's result does not depend on its worker.
class ThreadPool {
public:
    using Task = std::function<void(int64_t chunk, int worker)>;

    explicit ThreadPool(int num_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Run task(chunk, worker) for chunks 0..num_chunks-1, worker < num_threads(); the caller works
    // too. The task must not throw. One caller at a time.
    void run(int64_t num_chunks, const Task& task);

private:
    void serve(int worker);
    bool join_job(uint64_t& seen);
    void leave_job();
    void take_chunks(int worker);

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable job_opened_;
    std::condition_variable job_left_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<bool> stopping_{false};
    bool open_ = false;  // guarded by mutex_: late workers must not join a done job
    std::atomic<int> num_joined_{0};
    const Task* task_ = nullptr;
    int64_t num_chunks_ = 0;
    std::atomic<int64_t> next_chunk_{0};
};

}  // namespace edge

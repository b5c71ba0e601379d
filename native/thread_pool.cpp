#include "thread_pool.h"

#include <chrono>

namespace edge {
namespace {

// Long enough to bridge the gap between two layers' operations, short enough that a preempted
// partner does not burn our share of the CPU.
constexpr auto spin_time = std::chrono::microseconds(40);

template <typename Condition>
bool spin_until(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + spin_time;
    do {
        for (int i = 0; i < 64; ++i) {
            if (condition()) return true;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
    workers_.reserve(static_cast<size_t>(num_threads - 1));
    for (int worker = 1; worker < num_threads; ++worker)
        workers_.emplace_back([this, worker] { serve(worker); });
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        ++generation_;
    }
    job_opened_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t num_chunks, const Task& task) {
    if (workers_.empty() || num_chunks <= 1) {
        for (int64_t chunk = 0; chunk < num_chunks; ++chunk) task(chunk, 0);
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        task_ = &task;
        num_chunks_ = num_chunks;
        next_chunk_ = 0;
        open_ = true;
        ++generation_;
    }
    job_opened_.notify_all();
    take_chunks(0);
    std::unique_lock lock(mutex_);
    open_ = false;  // who has not joined by now is not waited for
    lock.unlock();
    if (spin_until([this] { return num_joined_ == 0; })) return;
    lock.lock();
    job_left_.wait(lock, [this] { return num_joined_ == 0; });
}

void ThreadPool::take_chunks(int worker) {
    for (;;) {
        const int64_t chunk = next_chunk_.fetch_add(1);
        if (chunk >= num_chunks_) return;
        (*task_)(chunk, worker);
    }
}

void ThreadPool::serve(int worker) {
    uint64_t seen = 0;
    for (;;) {
        spin_until([&] { return generation_ != seen; });
        const bool joined = join_job(seen);
        if (stopping_) return;
        if (!joined) continue;
        take_chunks(worker);
        leave_job();
    }
}

bool ThreadPool::join_job(uint64_t& seen) {
    std::unique_lock lock(mutex_);
    job_opened_.wait(lock, [&] { return generation_ != seen; });
    seen = generation_;
    if (open_) ++num_joined_;
    return open_;
}

void ThreadPool::leave_job() {
    const std::lock_guard lock(mutex_);
    if (--num_joined_ == 0) job_left_.notify_one();
}

}  // namespace edge

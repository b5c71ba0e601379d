#include "thread_pool.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "step_clock.h"

namespace edge {
namespace {

// ThreadPool::state_, from the lowest bit: 16 bits count who has joined the region, one says that
// it is open, 15 hold the number of threads invited, 32 the region's number. In one word, so that
// joining is one exchange: a thread that loses its core can never hold a lock that others need.
constexpr uint64_t joined_mask = 0xffff;
constexpr uint64_t open_bit = 0x10000;
constexpr int invited_shift = 17;
constexpr int number_shift = 32;

constexpr int64_t most_chunks_at_once = 16;

uint64_t number_of(uint64_t state) { return state >> number_shift; }

bool invites(uint64_t state, int worker, uint64_t seen) {
    const auto invited = static_cast<int>((state >> invited_shift) & 0x7fff);
    return (state & open_bit) != 0 && worker < invited && number_of(state) != seen;
}

}  // namespace

// Refuses a second region amid the first.
class ThreadPool::Region {
public:
    explicit Region(std::atomic<bool>& is_running) : is_running_(is_running) {
        if (is_running_.exchange(true))
            throw std::logic_error("a thread pool was asked for a region amid another one");
    }
    ~Region() { is_running_ = false; }
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;

private:
    std::atomic<bool>& is_running_;
};

ThreadPool::ThreadPool(int num_threads)
    : seats_(std::make_unique<Seat[]>(static_cast<size_t>(num_threads))), governor_(num_threads) {
    workers_.reserve(static_cast<size_t>(num_threads - 1));
    try {
        for (int worker = 1; worker < num_threads; ++worker)
            workers_.emplace_back([this, worker] { serve(worker); });
    } catch (...) {
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    stopping_ = true;
    for (size_t worker = 1; worker <= workers_.size(); ++worker) seats_[worker].wake();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t num_chunks, const Task& task) {
    const Region region(is_running_);
    share({num_chunks, 0}, task, num_threads(), /*wakes=*/true);
}

void ThreadPool::run(const Work& work, const Task& task) {
    const Region region(is_running_);
    if (workers_.empty() || work.num_chunks <= 1 || !governor_.is_worth_sharing(work.operations)) {
        for (int64_t chunk = 0; chunk < work.num_chunks; ++chunk) task(chunk, 0);
        return;
    }
    const bool wakes = governor_.is_worth_waking(work.operations);
    governor_.record(share(work, task, governor_.active(), wakes));
}

void ThreadPool::end_step() { governor_.end_step(now_ns()); }

RegionTimes ThreadPool::share(const Work& work, const Task& task, int threads, bool wakes) {
    threads = static_cast<int>(std::min<int64_t>(threads, work.num_chunks));
    const int64_t begin = now_ns();
    open(work.num_chunks, task, threads);
    for (int worker = 1; wakes && worker < threads; ++worker) seats_[worker].wake();
    const int64_t own_chunks = take_chunks(0);
    const int64_t own_end = now_ns();
    close();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    return {work.operations, work.num_chunks, own_chunks, own_end - begin, now_ns() - own_end};
}

void ThreadPool::open(int64_t num_chunks, const Task& task, int threads) {
    task_ = &task;
    num_chunks_ = num_chunks;
    num_invited_ = threads;
    next_chunk_ = 0;
    const uint64_t number = (number_of(state_) + 1) << number_shift;
    state_ = number | static_cast<uint64_t>(threads) << invited_shift | open_bit;
}

// Who has not joined by now is not waited for.
void ThreadPool::close() {
    state_ &= ~open_bit;
    seats_[0].wait_until([this] { return (state_ & joined_mask) == 0; });
}

void ThreadPool::serve(int worker) {
    uint64_t seen = 0;
    for (;;) {
        seats_[worker].wait_until([&] { return stopping_ || invites(state_, worker, seen); });
        if (stopping_) return;
        if (!join(worker, seen)) continue;
        take_chunks(worker);
        leave();
    }
}

bool ThreadPool::join(int worker, uint64_t& seen) {
    uint64_t state = state_;
    while (invites(state, worker, seen)) {
        if (!state_.compare_exchange_weak(state, state + 1)) continue;
        seen = number_of(state);
        return true;
    }
    return false;
}

void ThreadPool::leave() {
    const uint64_t before = state_.fetch_sub(1);
    if ((before & (joined_mask | open_bit)) == 1) seats_[0].wake();  // the last, of a closed one
}

// Many at a time at first, for few hand-overs; single ones at the end, for an even finish.
int64_t ThreadPool::take_chunks(int worker) try {
    int64_t taken = 0;
    int64_t first = next_chunk_;
    while (first < num_chunks_) {
        const int64_t share = (num_chunks_ - first) / (2 * num_invited_);
        const int64_t last = first + std::clamp<int64_t>(share, 1, most_chunks_at_once);
        if (!next_chunk_.compare_exchange_weak(first, last)) continue;
        for (int64_t chunk = first; chunk < last; ++chunk) (*task_)(chunk, worker);
        taken += last - first;
        first = next_chunk_;
    }
    return taken;
} catch (...) {
    next_chunk_ = num_chunks_;
    const std::lock_guard lock(failure_mutex_);
    if (!failure_) failure_ = std::current_exception();
    return 0;
}

}  // namespace edge

#include "thread_pool.h"

#include <algorithm>
#include <limits>
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

// ThreadPool::Run::ends: the first chunk in the upper half, the one after the last in the lower.
constexpr int first_shift = 32;
uint64_t ends_of(uint64_t first, uint64_t last) { return first << first_shift | last; }
uint64_t first_of(uint64_t ends) { return ends >> first_shift; }
uint64_t last_of(uint64_t ends) { return ends & 0xffffffff; }

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
    : seats_(std::make_unique<Seat[]>(static_cast<size_t>(num_threads))),
      runs_(std::make_unique<Run[]>(static_cast<size_t>(num_threads))),
      governor_(num_threads) {
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
    if (has_failed_.exchange(false)) std::rethrow_exception(std::exchange(failure_, nullptr));
    return {work.operations, work.num_chunks, own_chunks, own_end - begin, now_ns() - own_end};
}

void ThreadPool::open(int64_t num_chunks, const Task& task, int threads) {
    task_ = &task;
    num_invited_ = threads;
    hand_out(num_chunks, threads);
    const uint64_t number = (number_of(state_) + 1) << number_shift;
    state_ = number | static_cast<uint64_t>(threads) << invited_shift | open_bit;
}

void ThreadPool::hand_out(int64_t num_chunks, int threads) {
    if (num_chunks > std::numeric_limits<uint32_t>::max())
        throw std::invalid_argument("a region has too many chunks");
    const auto end_of = [&](int worker) {
        return static_cast<uint64_t>(num_chunks * worker / threads);
    };
    for (int worker = 0; worker < threads; ++worker)
        runs_[worker].ends.store(ends_of(end_of(worker), end_of(worker + 1)),
                                 std::memory_order_relaxed);
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

int64_t ThreadPool::take_chunks(int worker) try {
    int64_t taken = 0;
    std::atomic<uint64_t>& own = runs_[worker].ends;
    do {
        uint64_t ends = own;
        while (first_of(ends) < last_of(ends) && !has_failed_) {
            if (!own.compare_exchange_weak(ends, ends + ends_of(1, 0))) continue;
            (*task_)(static_cast<int64_t>(first_of(ends)), worker);
            ++taken;
            ends = own;
        }
    } while (!has_failed_ && take_over(worker));
    return taken;
} catch (...) {
    const std::lock_guard lock(failure_mutex_);
    if (!failure_) failure_ = std::current_exception();
    has_failed_ = true;
    return 0;
}

// The latter half of what another thread has left; false when there is nothing.
bool ThreadPool::take_over(int worker) {
    for (int i = 1; i < num_invited_; ++i) {
        std::atomic<uint64_t>& other = runs_[(worker + i) % num_invited_].ends;
        uint64_t ends = other;
        while (first_of(ends) < last_of(ends)) {
            const uint64_t middle = first_of(ends) + (last_of(ends) - first_of(ends)) / 2;
            if (!other.compare_exchange_weak(ends, ends_of(first_of(ends), middle))) continue;
            runs_[worker].ends = ends_of(middle, last_of(ends));
            return true;
        }
    }
    return false;
}

}  // namespace edge

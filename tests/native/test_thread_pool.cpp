// The thread pool: each chunk exactly once, one chunk per worker at a time, whatever the load.
#include "thread_pool.h"

#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>

#include "check.h"

using namespace edge;
using namespace edge::test;

namespace {

// What happened during one job.
class Record {
public:
    Record(int64_t num_chunks, int num_threads)
        : runs_(static_cast<size_t>(num_chunks)), busy_(static_cast<size_t>(num_threads)) {}

    void visit(int64_t chunk, int worker) {
        if (worker < 0 || worker >= static_cast<int>(busy_.size())) {
            ++wrong_workers_;
            return;
        }
        // Workers own scratch memory by their number: two at once would share it.
        if (busy_[static_cast<size_t>(worker)].exchange(true)) ++shared_workers_;
        ++runs_[static_cast<size_t>(chunk)];
        busy_[static_cast<size_t>(worker)] = false;
    }

    void check_all_ran_once() const {
        check(wrong_workers_ == 0, "a worker's number is out of range");
        check(shared_workers_ == 0, "two threads have the same worker's number at once");
        for (const auto& runs : runs_) check(runs == 1, "a chunk did not run exactly once");
    }

private:
    std::vector<std::atomic<int>> runs_;
    std::vector<std::atomic<bool>> busy_;
    std::atomic<int> wrong_workers_{0};
    std::atomic<int> shared_workers_{0};
};

// Governed or with all threads.
void run_job(ThreadPool& pool, int64_t num_chunks, bool is_governed = false) {
    Record record(num_chunks, pool.num_threads());
    const auto visit = [&](int64_t chunk, int worker) { record.visit(chunk, worker); };
    if (is_governed)
        pool.run({num_chunks, num_chunks}, visit);
    else
        pool.run(num_chunks, visit);
    record.check_all_ran_once();
}

void many_small_jobs(int num_threads) {
    current_case = std::to_string(num_threads) + " threads";
    ThreadPool pool(num_threads);
    check(pool.num_threads() == num_threads, "another number of threads");
    for (const bool is_governed : {false, true}) {
        for (int64_t num_chunks = 0; num_chunks < 40; ++num_chunks)
            run_job(pool, num_chunks, is_governed);
        for (int job = 0; job < 2000; ++job) run_job(pool, 1 + job % 13, is_governed);
        run_job(pool, 10'000, is_governed);
    }
}

// Regions of a few instructions, so that workers come late, meet the next region, fall asleep.
void many_tiny_jobs(int num_threads) {
    current_case = std::to_string(num_threads) + " threads";
    ThreadPool pool(num_threads);
    std::atomic<int64_t> sum{0};
    for (int64_t job = 0; job < 50'000; ++job) {
        const auto add = [&](int64_t, int) { sum.fetch_add(1, std::memory_order_relaxed); };
        if (job % 3 == 0)
            pool.run(3, add);
        else
            pool.run({3, job % 1000}, add);
        if (job % 100 == 0) pool.end_step();
        if (job % 10'000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    check(sum == 150'000, "a chunk did not run exactly once");
}

template <typename Fault, typename Call>
bool throws(Call call) {
    try {
        call();
    } catch (const Fault&) {
        return true;
    }
    return false;
}

void a_region_within_a_region_is_refused(int num_threads) {
    current_case = std::to_string(num_threads) + " threads";
    ThreadPool pool(num_threads);
    std::atomic<int> refused{0};
    pool.run(50, [&](int64_t, int) {
        const auto nested = [&] { pool.run(2, [](int64_t, int) {}); };
        if (throws<std::logic_error>(nested)) ++refused;
    });
    check(refused == 50, "a nested region ran");
    run_job(pool, 20);
}

// From any chunk, whoever runs it, the exception reaches the caller; the pool goes on.
void exceptions_reach_the_caller(int num_threads) {
    current_case = std::to_string(num_threads) + " threads";
    ThreadPool pool(num_threads);
    for (int64_t bad = 0; bad < 64; ++bad) {
        const auto fail = [&](int64_t chunk, int) {
            if (chunk >= bad) throw std::runtime_error("chunk");
        };
        check(throws<std::runtime_error>([&] { pool.run(64, fail); }), "an exception is lost");
        check(throws<std::runtime_error>([&] { pool.run({64, 64}, fail); }), "a governed one is");
        run_job(pool, 10);
    }
}

// What one job writes, the next one reads: `run` must not return before all is written.
void jobs_see_what_jobs_wrote(int num_threads) {
    current_case = std::to_string(num_threads) + " threads";
    ThreadPool pool(num_threads);
    std::vector<int64_t> values(257, 0);
    for (int job = 0; job < 500; ++job)
        pool.run(257, [&](int64_t chunk, int) { ++values[static_cast<size_t>(chunk)]; });
    for (const int64_t value : values) check(value == 500, "a write was lost");
}

// Every chunk waits for all the others to begin, which needs a thread for each of them.
void all_threads_take_part(ThreadPool& pool) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    std::atomic<int> begun{0};
    pool.run(pool.num_threads(), [&](int64_t, int) {
        ++begun;
        while (begun < pool.num_threads() && std::chrono::steady_clock::now() < deadline)
            std::this_thread::yield();
    });
    check(std::chrono::steady_clock::now() < deadline, "a worker sleeps through a job");
}

// Each chunk of one thread's run in turn takes until all others are done.
void what_a_slow_thread_has_left_is_taken_over() {
    constexpr int num_chunks = 90;
    ThreadPool pool(3);
    for (int64_t slow = 0; slow < num_chunks; slow += 7) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
        std::atomic<int> done{0};
        pool.run(num_chunks, [&](int64_t chunk, int) {
            while (chunk == slow && done < num_chunks - 1 &&
                   std::chrono::steady_clock::now() < deadline)
                std::this_thread::yield();
            ++done;
        });
        check(std::chrono::steady_clock::now() < deadline, "chunks wait for a slow thread");
        check(done == num_chunks, "a chunk did not run exactly once");
    }
}

void sleeping_workers_wake_up() {
    ThreadPool pool(4);
    for (int pause = 0; pause < 20 && num_failures == 0; ++pause) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));  // beyond their spinning
        all_threads_take_part(pool);
    }
}

// Looks at the condition until they stay the same for a while: the waiting thread sleeps.
int settled(const std::atomic<int>& looks) {
    int before = -1;
    while (before != looks) {
        before = looks;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return before;
}

// A region is often over before the woken thread has a core, and the next one begins soon.
void whoever_is_woken_in_vain_spins_before_it_sleeps_again() {
    Seat seat;
    std::atomic<bool> done{false};
    std::atomic<int> looks{0};
    std::thread waiting([&] {
        seat.wait_until([&] {
            ++looks;
            return done.load();
        });
    });
    const int before = settled(looks);
    seat.wake();
    check(settled(looks) - before >= 32, "a woken thread looked once and slept again");
    done = true;
    seat.wake();
    waiting.join();
}

void pools_come_and_go() {
    for (int round = 0; round < 200; ++round) {
        ThreadPool outer(1 + round % 4);
        if (round % 2 == 0) run_job(outer, 3);
        auto inner = std::make_unique<ThreadPool>(1 + round % 3);
        run_job(*inner, 5);
        inner.reset();
        run_job(outer, 5);
    }
}

void pools_work_within_pools() {
    ThreadPool outer(3);
    std::atomic<int> total{0};
    outer.run(6, [&](int64_t, int) {
        ThreadPool inner(2);
        inner.run(10, [&](int64_t, int) { ++total; });
    });
    check(total == 60, "a chunk of a nested pool did not run exactly once");
}

}  // namespace

int main() {
    shortest_shared_ns = 0;
    for (int num_threads = 1; num_threads <= 8; ++num_threads) {
        many_small_jobs(num_threads);
        jobs_see_what_jobs_wrote(num_threads);
        many_tiny_jobs(num_threads);
        a_region_within_a_region_is_refused(num_threads);
        exceptions_reach_the_caller(num_threads);
    }
    current_case = "life of pools";
    what_a_slow_thread_has_left_is_taken_over();
    sleeping_workers_wake_up();
    whoever_is_woken_in_vain_spins_before_it_sleeps_again();
    pools_come_and_go();
    pools_work_within_pools();
    return verdict();
}

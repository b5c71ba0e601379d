// The thread pool: each chunk exactly once, one chunk per worker at a time, whatever the load.
#include "thread_pool.h"

#include <chrono>
#include <memory>

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

void run_job(ThreadPool& pool, int64_t num_chunks) {
    Record record(num_chunks, pool.num_threads());
    pool.run(num_chunks, [&](int64_t chunk, int worker) { record.visit(chunk, worker); });
    record.check_all_ran_once();
}

void many_small_jobs(int num_threads) {
    current_case = std::to_string(num_threads) + " threads";
    ThreadPool pool(num_threads);
    check(pool.num_threads() == num_threads, "another number of threads");
    for (int64_t num_chunks = 0; num_chunks < 40; ++num_chunks) run_job(pool, num_chunks);
    for (int job = 0; job < 2000; ++job) run_job(pool, 1 + job % 13);
    run_job(pool, 10'000);
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

void sleeping_workers_wake_up() {
    ThreadPool pool(4);
    for (int pause = 0; pause < 20 && num_failures == 0; ++pause) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));  // beyond their spinning
        all_threads_take_part(pool);
    }
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
    for (int num_threads = 1; num_threads <= 8; ++num_threads) {
        many_small_jobs(num_threads);
        jobs_see_what_jobs_wrote(num_threads);
    }
    current_case = "life of pools";
    sleeping_workers_wake_up();
    pools_come_and_go();
    pools_work_within_pools();
    return verdict();
}

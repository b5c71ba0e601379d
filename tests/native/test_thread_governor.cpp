// The governor, with measurements as a machine would give them: no clock, no threads.
#include "thread_governor.h"

#include <utility>

#include "check.h"

using namespace edge;
using namespace edge::test;

namespace {

constexpr int64_t ms = 1'000'000;

// A machine on which a region of 100 operations takes one thread 10 ms; others may hold cores.
class Machine {
public:
    explicit Machine(int num_threads) : governor(num_threads) {}

    // Regions that take `elapsed_ms(threads)`, a part of it late, until `duration_ms` has passed.
    template <typename Elapsed>
    void live(int64_t duration_ms, Elapsed elapsed_ms, double late) {
        const int64_t end = now_ + duration_ms * ms;
        while (now_ < end) {
            const auto elapsed = static_cast<int64_t>(elapsed_ms(governor.active()) * ms);
            const double wait = governor.active() > 1 ? late : 0.0;
            const auto wait_ns = static_cast<int64_t>(elapsed * wait);
            now_ += elapsed;
            governor.record({100, 100, 50, elapsed - wait_ns, wait_ns});
            governor.end_step(now_);
            time_with_one_ += governor.active() == 1 ? elapsed : 0;
        }
    }

    int64_t take_time_with_one_ms() { return std::exchange(time_with_one_, 0) / ms; }

    ThreadGovernor governor;

private:
    int64_t now_ = 0;
    int64_t time_with_one_ = 0;
};

double idle(int threads) { return 10.0 / threads; }
double contended(int threads) { return threads == 1 ? 15.0 : 25.0; }

void short_work_stays_with_the_caller() {
    ThreadGovernor governor(4);
    check(governor.is_worth_sharing(1), "work of unknown length is not shared");
    governor.record({1'000'000, 10, 10, 100'000, 0});  // 10 operations per ns
    check(!governor.is_worth_sharing(30'000), "3 us are shared");
    check(governor.is_worth_sharing(50'000), "5 us are not shared");
    check(!governor.is_worth_waking(200'000), "a thread is woken for 20 us");
    check(governor.is_worth_waking(1'000'000), "no thread is woken for 100 us");
}

// An interrupted caller looks slow; short work must not look long because of that.
void an_interruption_does_not_slow_the_estimate() {
    ThreadGovernor governor(4);
    governor.record({1'000'000, 10, 10, 100'000, 0});
    governor.record({1'000'000, 10, 10, 5 * ms, 0});
    check(!governor.is_worth_sharing(30'000), "short work looks long after an interruption");
    for (int i = 0; i < 2000; ++i) governor.record({1'000'000, 10, 10, 5 * ms, 0});
    check(governor.is_worth_sharing(30'000), "a machine that became slow still looks fast");
}

void the_last_chunks_of_others_are_not_late() {
    check(RegionTimes{1, 20, 10, 100, 20}.late_ns() == 0, "two chunks' time is late");
    check(RegionTimes{1, 20, 10, 100, 50}.late_ns() == 30, "another time is late");
    check(RegionTimes{1, 20, 0, 100, 50}.late_ns() == 50, "a caller without a chunk");
}

void an_idle_machine_keeps_its_threads() {
    for (const int threads : {1, 2, 3, 8, 64}) {
        Machine machine(threads);
        machine.live(5000, idle, 0.1);
        check(machine.governor.active() == threads, "threads are lost on an idle machine");
    }
}

// Long waits alone are no reason: where more threads are faster all the same, they stay.
void waits_that_pay_are_borne() {
    Machine machine(2);
    machine.live(10'000, idle, 0.4);
    check(machine.governor.active() == 2, "the slower level was kept");
    check(machine.take_time_with_one_ms() < 1000, "trials take more than a tenth of the time");
}

void load_comes_and_goes() {
    Machine machine(2);
    machine.live(1000, idle, 0.0);
    check(machine.take_time_with_one_ms() == 0, "a trial without a reason");
    machine.live(2000, contended, 0.6);
    check(machine.governor.active() == 1, "two threads go on beside a busy program");
    machine.live(20'000, contended, 0.6);
    check(machine.take_time_with_one_ms() > 18'000, "two threads are tried too often");
    machine.live(7000, idle, 0.0);
    check(machine.governor.active() == 2, "one thread goes on when the load has gone");
    machine.take_time_with_one_ms();
    machine.live(5000, idle, 0.0);
    check(machine.take_time_with_one_ms() == 0, "one thread comes back on an idle machine");
}

// Of eight cores three are taken: five threads are best.
void the_right_number_of_many() {
    const auto three_taken = [](int threads) {
        return threads <= 5 ? 10.0 / threads : 10.0 / threads * (1.0 + (threads - 5));
    };
    Machine machine(8);
    machine.live(30'000, three_taken, 0.5);
    check(machine.governor.active() >= 4 && machine.governor.active() <= 6, "far from the best");
    machine.live(30'000, idle, 0.0);
    check(machine.governor.active() == 8, "not all threads come back");
}

void a_short_interruption_changes_nothing() {
    Machine machine(2);
    machine.live(1000, idle, 0.0);
    machine.live(15, contended, 0.2);
    machine.live(100, idle, 0.0);
    check(machine.governor.active() == 2, "an interruption costs a thread");
}

// Half of each step's work takes ten times as long per operation.
void unequal_regions_of_a_step_are_not_compared() {
    ThreadGovernor governor(2);
    for (int64_t step = 0; step < 100; ++step) {
        for (int i = 0; i < 40; ++i) {
            const int64_t elapsed = (i < 20 ? 10 : 100) * ms / governor.active();
            governor.record({100, 100, 50, elapsed / 2, elapsed / 2});
        }
        const int before = governor.active();
        governor.end_step(step * 1000 * ms);
        check(before == 2 || governor.active() == 2, "the slower level was kept");
    }
}

void levels_stay_in_range() {
    for (const int threads : {1, 2, 5, 1024}) {
        ThreadGovernor governor(threads);
        for (int64_t i = 0; i < 20'000; ++i) {
            const int64_t wait = i * 7919 % 13 * ms;  // anything
            governor.record({1, 4, i % 5 == 0 ? 0 : 2, i % 3 * ms, wait});
            if (i % 4 == 0) governor.end_step(i * ms);
            check(governor.active() >= 1 && governor.active() <= threads, "an impossible level");
        }
    }
}

}  // namespace

int main() {
    short_work_stays_with_the_caller();
    an_interruption_does_not_slow_the_estimate();
    the_last_chunks_of_others_are_not_late();
    an_idle_machine_keeps_its_threads();
    waits_that_pay_are_borne();
    load_comes_and_goes();
    the_right_number_of_many();
    a_short_interruption_changes_nothing();
    unequal_regions_of_a_step_are_not_compared();
    levels_stay_in_range();
    return verdict();
}

#include "thread_governor.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace edge {
namespace {

// Of many threads several go at once, or finding the right number would take too long.
int step_of(int threads) { return std::max(1, threads / 4); }

// More threads must give a quarter of what they could, or they leave the cores to other programs.
bool pays(const Level& fewer, const Level& more) {
    const double ideal = static_cast<double>(more.threads) / fewer.threads;
    return fewer.cost > more.cost * (1.0 + 0.25 * (ideal - 1.0));
}

}  // namespace

int64_t RegionTimes::late_ns() const {
    const int64_t chunk_ns = own_chunks == 0 ? 0 : own_ns / own_chunks;
    return std::max<int64_t>(0, wait_ns - 2 * chunk_ns);
}

void ThreadGovernor::Window::add(const RegionTimes& region) {
    ++regions;
    operations += region.operations;
    elapsed_ns += region.elapsed_ns();
    late_ns += region.late_ns();
}

double ThreadGovernor::estimate_ns(int64_t operations) const {
    if (speed_ == 0.0) return std::numeric_limits<double>::infinity();
    return static_cast<double>(operations) / speed_;
}

// The fastest of late: whoever was interrupted looks slow, and nobody looks too fast.
void ThreadGovernor::learn_speed(const RegionTimes& region) {
    if (region.own_ns <= 0) return;
    const double share = static_cast<double>(region.own_chunks) / region.chunks;
    const double speed = share * region.operations / region.own_ns;
    speed_ = std::max(speed, speed_ * 0.995);
}

void ThreadGovernor::record(const RegionTimes& region) {
    learn_speed(region);
    window_.add(region);
}

void ThreadGovernor::end_step(int64_t now_ns) {
    if (!window_.is_full()) return;
    const Window window = std::exchange(window_, {});
    if (active_ != incumbent_.threads)
        judge(window, now_ns);
    else
        settle(window, now_ns);
}

// No trial is on: begin one if there is a reason.
void ThreadGovernor::settle(const Window& window, int64_t now_ns) {
    incumbent_ = {active_, window.cost()};
    const bool is_held_up = active_ > 1 && window.late_ns * 4 > window.elapsed_ns;
    if (is_held_up && now_ns >= next_fewer_ns_)
        active_ -= step_of(active_);
    else if (active_ < num_threads_ && now_ns >= next_more_ns_)
        active_ = std::min(num_threads_, active_ + step_of(active_));
}

void ThreadGovernor::judge(const Window& window, int64_t now_ns) {
    const Level candidate{active_, window.cost()};
    const bool is_fewer = candidate.threads < incumbent_.threads;
    const bool more_pay = is_fewer ? pays(candidate, incumbent_) : pays(incumbent_, candidate);
    if (more_pay != is_fewer) {
        incumbent_ = candidate;
        pause_ns_ = first_pause_ns;
        if (is_fewer) put_off(next_more_ns_, now_ns);
    } else {
        active_ = incumbent_.threads;
        put_off(is_fewer ? next_fewer_ns_ : next_more_ns_, now_ns);
    }
}

void ThreadGovernor::put_off(int64_t& next, int64_t now_ns) {
    next = now_ns + pause_ns_;
    pause_ns_ = std::min(longest_pause_ns, 2 * pause_ns_);
}

}  // namespace edge

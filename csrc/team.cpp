#include "team.h"

#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpus.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kSpinMicroseconds = 50;

void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void futex(std::atomic<uint32_t>& word, int op, uint32_t value) {
    static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint32_t>::is_always_lock_free);
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), op | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

void pin(pthread_t thread, int cpu) {
    if (cpu >= CPU_SETSIZE) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(thread, sizeof set, &set);  // a wish: where it is refused, the system places the thread
}

}  // namespace

Team::Team(int count, bool pinned) : count_(std::max(count, 1)), pid_(getpid()) {
    const std::vector<int> cpus = usable_cpus();
    // Threads that must share a CPU get nowhere while one of them spins.
    spin_us_ = count_ <= static_cast<int>(cpus.size()) ? kSpinMicroseconds : 0;
    tickets_ = std::make_unique<Tickets[]>(count_);
    seats_.reserve(count_);
    for (int i = 0; i < count_; i++) seats_.push_back({this, i});
    for (int i = 1; i < count_; i++) {
        pthread_t thread;
        // Signals are for the caller's threads: one that a worker took would not wake who waits for it (Ctrl-C).
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        const int error = pthread_create(&thread, nullptr, &Team::thread_main, &seats_[i]);
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        if (error != 0) {
            shut_down();
            throw std::runtime_error("cannot start thread " + std::to_string(i + 1) + " of " + std::to_string(count_) +
                                     " (" + std::strerror(error) + "); ask for fewer threads");
        }
        threads_.push_back(thread);
        if (pinned && !cpus.empty()) pin(thread, cpus[i % cpus.size()]);
    }
}

Team::~Team() { shut_down(); }

void Team::shut_down() {
    if (getpid() != pid_) return;  // forked: the threads live on in the parent only
    stop_ = true;
    change(run_);
    for (pthread_t thread : threads_) pthread_join(thread, nullptr);
    threads_.clear();
}

void Team::run_task(const Task& task) {
    if (getpid() != pid_) {
        throw std::runtime_error(
            "this process was forked after the model was loaded, and threads do not survive a fork; load the model in "
            "the process that uses it, or start processes with 'spawn'");
    }
    task_ = task;
    if (count_ > 1) change(run_);
    task.call(task.fn, Worker{0, count_, task.scratch, task.scratch_bytes, &Team::barrier, this, tickets_.get()});
    barrier(this);
}

void* Team::thread_main(void* arg) {
    const Seat& seat = *static_cast<Seat*>(arg);
    seat.team->serve(seat.id);
    return nullptr;
}

void Team::serve(int id) {
    for (uint32_t seen = 0;; seen++) {
        wait_changed(run_, seen);
        if (stop_) return;
        const Task task = task_;
        std::byte* scratch = task.scratch == nullptr ? nullptr : task.scratch + id * task.scratch_bytes;
        task.call(task.fn, Worker{id, count_, scratch, task.scratch_bytes, &Team::barrier, this, tickets_.get()});
        barrier(this);
    }
}

void Team::barrier(void* self) {
    Team& team = *static_cast<Team*>(self);
    if (team.count_ == 1) return;
    const uint32_t generation = team.generation_.load(std::memory_order_relaxed);
    if (team.arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < team.count_) {
        team.wait_changed(team.generation_, generation);
    } else {
        team.arrived_.store(0, std::memory_order_relaxed);
        team.change(team.generation_);
    }
}

// A sleeper counts itself before the kernel compares the word, and the word changes before sleepers are counted: so
// either it sees the change or it is woken.
void Team::change(std::atomic<uint32_t>& word) {
    word.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) futex(word, FUTEX_WAKE, INT_MAX);
}

void Team::wait_changed(std::atomic<uint32_t>& word, uint32_t old) {
    const auto end = Clock::now() + std::chrono::microseconds(spin_us_);
    do {
        for (int i = 0; i < 64; i++) {
            if (word.load(std::memory_order_acquire) != old) return;
            pause_cpu();
        }
    } while (Clock::now() < end);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (word.load(std::memory_order_seq_cst) == old) futex(word, FUTEX_WAIT, old);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace penstock

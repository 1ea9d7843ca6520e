// A persistent team of threads: the caller and count - 1 others. Between two runs, and at a barrier, a thread spins for
// some tens of microseconds and then sleeps, so that an idle team costs no CPU.
#pragma once
#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "worker.h"

namespace penstock {

// Pads what one thread writes often to its own pair of cache lines.
constexpr size_t kCacheLines = 128;

class Team {
  public:
    // `pinned`: every worker but the caller is bound to one CPU. Throws std::runtime_error when a thread cannot be had.
    explicit Team(int count, bool pinned = false);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int count() const { return count_; }

    // Calls fn(worker) on every worker, the caller being worker 0, and returns when all are done. fn must not throw.
    // Throws std::runtime_error in a process that was forked after the team was made: threads do not survive a fork.
    template <class F>
    void run(std::byte* scratch, size_t scratch_bytes, F&& fn) {
        auto call = [](const void* f, const Worker& w) { (*static_cast<const std::remove_reference_t<F>*>(f))(w); };
        run_task(Task{call, &fn, scratch, scratch_bytes});
    }
    template <class F>
    void run(F&& fn) {
        run(nullptr, 0, static_cast<F&&>(fn));
    }

  private:
    struct Task {
        void (*call)(const void*, const Worker&);
        const void* fn;
        std::byte* scratch;  // worker i has bytes [i, i + 1) * scratch_bytes
        size_t scratch_bytes;
    };
    void run_task(const Task& task);
    void serve(int id);
    void shut_down();
    void wait_changed(std::atomic<uint32_t>& word, uint32_t old);
    void change(std::atomic<uint32_t>& word);
    static void barrier(void* self);
    static void* thread_main(void* arg);

    struct Seat {
        Team* team;
        int id;
    };
    int count_;
    int pid_;
    int spin_us_;
    bool stop_ = false;
    Task task_{};
    std::vector<Seat> seats_;
    std::unique_ptr<Tickets[]> tickets_;
    std::vector<pthread_t> threads_;
    alignas(kCacheLines) std::atomic<uint32_t> run_{0};         // changes when a run begins
    alignas(kCacheLines) std::atomic<uint32_t> generation_{0};  // changes when the last worker is at the barrier
    alignas(kCacheLines) std::atomic<int> arrived_{0};
    alignas(kCacheLines) std::atomic<int> sleepers_{0};
};

}  // namespace penstock

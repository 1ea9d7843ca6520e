// One thread's view of the team while a step runs. Every op is called by all workers with the same arguments and
// divides its own work by (id, count); the executor puts one barrier behind each op.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace penstock {

// What one worker gives out of its share (Worker::share_out), on cache lines of its own.
struct alignas(128) Tickets {
    std::atomic<uint64_t> next{0};  // phase << 32 | pieces given out in it
    uint32_t phase = 0;             // only this worker's
};

struct Worker {
    int id;
    int count;
    // Private scratch of this worker, 64-byte aligned, sized at load (`scratch_bytes` of every op's plan).
    std::byte* scratch;
    size_t scratch_bytes;
    // Meets all workers; an op may use it between two phases of its own. Every worker must call it equally often.
    void (*barrier_fn)(void*);
    void* team;
    void barrier() const { barrier_fn(team); }
    Tickets* tickets = nullptr;  // [count]; null: shares stay as they are cut

    // [begin, end) of `n` equal items for this worker: contiguous, and a function of (n, id, count) only.
    void range(int64_t n, int64_t& begin, int64_t& end) const {
        begin = n * id / count;
        end = n * (id + 1) / count;
    }

    // Calls f(begin, end) for pieces of `n` items: this worker's share in order, then what others have not come to yet,
    // so that one that is slowed down is not waited for. Who computes a piece must not show in its results. All workers
    // call it, and meet before they call it again.
    template <class F>
    void share_out(int64_t n, int64_t piece, F f) const {
        if (tickets == nullptr || count == 1) {
            int64_t begin, end;
            range(n, begin, end);
            if (begin < end) f(begin, end);
            return;
        }
        const uint64_t phase = uint64_t{++tickets[id].phase} << 32;
        for (int i = 0; i < count && i <= kHelped; i++) {
            const int whose = (id + i) % count;
            const int64_t begin = n * whose / count, end = n * (whose + 1) / count;
            const auto pieces = static_cast<uint64_t>((end - begin + piece - 1) / piece);
            for (uint64_t at; (at = take(tickets[whose].next, phase, pieces)) < pieces;) {
                const int64_t from = begin + static_cast<int64_t>(at) * piece;
                f(from, from + piece < end ? from + piece : end);
            }
        }
    }

  private:
    static constexpr int kHelped = 7;  // others whose share is looked into
    // The number of a piece of this phase that nobody has; `pieces` where none is left.
    static uint64_t take(std::atomic<uint64_t>& next, uint64_t phase, uint64_t pieces) {
        uint64_t seen = next.load(std::memory_order_relaxed);
        for (;;) {
            const uint64_t at = seen >> 32 == phase >> 32 ? seen & 0xffffffffu : 0;
            if (at >= pieces) return pieces;
            if (next.compare_exchange_weak(seen, phase | (at + 1), std::memory_order_relaxed)) return at;
        }
    }
};

}  // namespace penstock

// One thread's view of the team while a step runs. Every op is called by all workers with the same arguments and
// divides its own work by (id, count); the executor puts one barrier behind each op.
#pragma once
#include <cstddef>
#include <cstdint>

namespace penstock {

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

    // [begin, end) of `n` equal items for this worker: contiguous, and a function of (n, id, count) only.
    void range(int64_t n, int64_t& begin, int64_t& end) const {
        begin = n * id / count;
        end = n * (id + 1) / count;
    }
};

}  // namespace penstock

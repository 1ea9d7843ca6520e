// What `moe` keeps between its phases: for all workers, and for each one.
#pragma once
#include <algorithm>

#include "ops/low_rank.h"
#include "ops/moe.h"

namespace penstock {

// Rows of one expert in one call: the input panels stay in the second-level cache for most widths.
constexpr int64_t kMoeJob = 128;

// Parts of a block of memory, each on a 64-byte line.
class MoeCarver {
  public:
    explicit MoeCarver(std::byte* data) : data_(data) {}
    template <class T>
    T* take(int64_t n) {
        T* p = data_ == nullptr ? nullptr : reinterpret_cast<T*>(data_ + used_);
        used_ += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
        return p;
    }
    int64_t used() const { return used_; }

  private:
    std::byte* data_;
    int64_t used_ = 0;
};

struct MoeChoice {
    int32_t expert;
    float weight;
};

// What all workers see.
struct MoeShared {
    MoeChoice* choices;  // [rows][top_k], by expert
    float* inner;        // [pairs of a chunk][width]: activation(gate) * up
    float* upper;        // the same of up alone, where gate and up are apart
    float* outer;        // [pairs of a chunk][hidden]: down
    float* low;          // [pairs of a chunk][2][ld_low]: A x of gate and up, then of down
    int64_t ld_inner, ld_outer, ld_low;
    int64_t bytes;

    MoeShared(const MoeArgs& a, int64_t rows, MoeCarver&& memory)
        : ld_inner(low_rank_tiles(a.width) * kTile),
          ld_outer(low_rank_tiles(a.hidden) * kTile),
          ld_low(low_rank_tiles(a.loras.rank) * kTile) {
        const int64_t pairs = std::min(rows, kMoeChunk) * a.top_k;
        choices = memory.take<MoeChoice>(rows * a.top_k);
        inner = memory.take<float>(pairs * ld_inner);
        outer = memory.take<float>(pairs * ld_outer);
        upper = memory.take<float>(a.apart || a.loras.rank > 0 ? pairs * ld_inner : 0);
        low = memory.take<float>(pairs * 2 * ld_low);
        bytes = memory.used();
    }
};

// What one worker has for itself. A pair is (row, one of its experts); pairs in their own order are sorted by expert,
// and those of an expert by adapter.
struct MoePrivate {
    float* p;         // [experts]
    int64_t* start;   // [experts + 1] first sorted pair of each expert
    int32_t* row_of;  // [pairs of a chunk] row (in the chunk) of each sorted pair
    int32_t* place;   // [pairs of a chunk] sorted place of each pair
    float* rows;      // [kMoeJob][hidden] rows of one expert, side by side
    uint32_t* panel;  // rows that are multiplied with an adapter's factors
    std::byte* prepared;
    std::byte* scratch;
    int64_t scratch_bytes;
    int64_t bytes;

    MoePrivate(const MoeArgs& a, int64_t rows_at_most, MoeCarver&& memory) {
        const int64_t chunk = std::min(rows_at_most, kMoeChunk), pairs = chunk * a.top_k,
                      job = std::min(chunk, kMoeJob);
        p = memory.take<float>(a.experts);
        start = memory.take<int64_t>(a.experts + 1);
        row_of = memory.take<int32_t>(pairs);
        place = memory.take<int32_t>(pairs);
        rows = memory.take<float>(job * a.hidden);
        const int64_t widest = std::max(a.hidden, a.width);
        panel = memory.take<uint32_t>(a.loras.rank > 0 ? low_rank_panel_bytes(widest, a.loras.rank) / 4 : 0);
        prepared = memory.take<std::byte>(job * a.prepared_bytes);
        scratch_bytes = a.scratch_bytes;
        scratch = memory.take<std::byte>(scratch_bytes);
        bytes = memory.used();
    }
};

}  // namespace penstock

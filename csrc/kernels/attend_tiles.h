// Attention where the cache holds bf16, on tiles of AMX: both products go over 32 numbers at a time, head elements of
// keys and cache rows of values, and the cache lies as these tiles want it. A sum of values is one of whole steps, at
// the same places for every number of query rows; rows not seen are zeros in it.
#pragma once
#include <cstring>

#include "kernels/attend_weights.h"
#include "kernels/tile_weights.h"

namespace penstock {
namespace {

constexpr int kStepLines = kStepRows / 2;  // of values: a line is 16 elements of two rows

// Asks for the lines of a tile's memory so many bytes ahead, or for none.
inline void fetch_tile(const std::byte* p, int64_t stride, Ahead ahead) {
    if (ahead.bytes == 0) return;
#pragma GCC unroll 16
    for (int line = 0; line < 16; line++) prefetch_near(p + line * stride + ahead.bytes);
}

// Scores of T groups.
template <int T>
inline void score_tiles(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, Ahead ahead,
                        float* scores) {
    const int64_t stride = a.tile_rows * 4, blocks = a.head_dim / 32;
    const std::byte* q = reinterpret_cast<const std::byte*>(b.q);
    each_tile<T>([](auto t) { clear_tile<t>(); });
    for (int64_t i = 0; i < blocks; i++) {
        load_tile<4>(q + i * b.rows * 64, 64);
        each_tile<T>([&](auto t) {
            const std::byte* p = keys[t] + i * 16 * stride;
            fetch_tile(p, stride, ahead);
            load_tile<6>(p, stride);
            add_product<Product::bf16, t, 4, 6>();
        });
    }
    if (const int64_t tail = a.head_dim % 32; tail != 0) {
        load_tile<5>(q + blocks * b.rows * 64, 64);
        each_tile<T>([&](auto t) {
            load_tile<7>(keys[t] + blocks * 16 * stride, stride);
            add_product<Product::bf16, t, 5, 7>();
        });
    }
    each_tile<T>([&](auto t) { store_tile<t>(scores + t * 16, kSpanRows * 4); });
}

// Values of a step, those of one chunk, as whole tiles: rows that are not to be seen, and elements there are none of,
// are zeros.
struct StepCopy {
    alignas(64) uint32_t lines[kStepLines][kValueChunk];

    void take(const ValueRows& v, const ValueChunk& c, int step) {
        const int start = step * kStepRows, width = static_cast<int>(c.width);
        for (int i = 0; i < kStepLines; i++) {
            const int row = start + 2 * i, in = row & (v.tile - 1);
            const bool even = v.begin <= row && row < v.end, odd = v.begin <= row + 1 && row + 1 < v.end;
            if (!even && !odd) {
                std::memset(lines[i], 0, sizeof lines[i]);
                continue;
            }
            const uint32_t* from = reinterpret_cast<const uint32_t*>(v.values[row / 16] + v.offset) +
                                   (c.chunk * v.tile + in * c.width) / 2;
            for (int d = 0; d < kValueChunk; d += 16) {
                const int n = width - d < 16 ? width - d : 16;
                Line line = n > 0 ? load_line(from + d, n) : broadcast_line(0);
                if (!odd) line = even_only(line);
                if (!even) line = odd_only(line);
                std::memcpy(lines[i] + d, &line, 64);
            }
        }
    }
};

// What of a panel values are added to.
struct TileSums {
    const uint32_t* weights;
    float* y;
    int64_t ldy;
};

// Values of a span's rows v.begin <= row < v.end to T x 16 elements of a chunk.
template <int T>
inline void add_tiles(const ValueRows& v, const ValueChunk& c, const TileSums& sums) {
    float* y = sums.y + c.chunk;
    StepCopy copy;
    each_tile<T>([&](auto t) { load_tile<t>(y + t * 16, sums.ldy * 4); });
    for (int step = v.begin / kStepRows; step * kStepRows < v.end; step++) {
        const int row = step * kStepRows;
        const bool whole = v.begin <= row && row + kStepRows <= v.end && v.tile == kStepRows && c.width % 16 == 0;
        const std::byte* p = v.values[row / 16] + v.offset + c.chunk * v.tile * 2;
        int64_t stride = c.width * 4;
        if (!whole) {
            copy.take(v, c, step);
            p = reinterpret_cast<const std::byte*>(copy.lines), stride = kValueChunk * 4;
        }
        load_tile<4>(sums.weights + row / 2, kSpanRows * 4);
        each_tile<T>([&](auto t) {
            if (whole) fetch_tile(p + t * 64, stride, v.ahead);
            load_tile<6>(p + t * 64, stride);
            add_product<Product::bf16, t, 4, 6>();
        });
    }
    each_tile<T>([&](auto t) { store_tile<t>(y + t * 16, sums.ldy * 4); });
}

inline void add_chunks(int64_t head_dim, const ValueRows& v, const TileSums& sums) {
    static_assert(kValueChunk == 64);
    for (ValueChunk c{0, kValueChunk}; c.chunk < head_dim; c.chunk += kValueChunk) {
        c.width = head_dim - c.chunk < kValueChunk ? head_dim - c.chunk : kValueChunk;
        if (c.width > 48)
            add_tiles<4>(v, c, sums);
        else if (c.width > 32)
            add_tiles<3>(v, c, sums);
        else if (c.width > 16)
            add_tiles<2>(v, c, sums);
        else
            add_tiles<1>(v, c, sums);
    }
}

class TileProducts {
  public:
    static constexpr KVType kType = KVType::bf16;
    static constexpr int kTogether = kStepRows;

    void score(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int from, int to, Ahead ahead) {
        shape(a, b.rows);
        for (; from + 4 <= to; from += 4) score_tiles<4>(a, b, keys + from, ahead, b.scores + from * 16);
        for (; from + 2 <= to; from += 2) score_tiles<2>(a, b, keys + from, ahead, b.scores + from * 16);
        if (from < to) score_tiles<1>(a, b, keys + from, ahead, b.scores + from * 16);
    }

    template <class Fetch>
    void weigh(const AttendRun& a, AttendPanel& b, const Seen& seen, int first_row, const Fetch& early) {
        weigh_rows(a, b, seen, first_row, early);
    }

    void add(const AttendRun& a, const AttendPanel& b, const Seen& seen, const ValueRows& v, const float* scale) {
        if (scale != nullptr) rescale(b, scale);
        ValueRows part = v;
        for (; part.begin < v.end; part.begin = part.end) {
            part.end = part.begin;
            while (part.end < v.end && together(a, b, seen, step_at(v, part.end))) part.end = step_at(v, part.end).end;
            if (part.end > part.begin) {
                shape(a, b.rows);
                add_chunks(a.head_dim, part, {b.weights, b.y, b.ldy});
            } else {
                part.end = step_at(v, part.begin).end;
                add_apart(a, b, seen, part);
            }
        }
    }

  private:
    void shape(const AttendRun& a, int rows) {
        const int tail = static_cast<int>(a.head_dim % 32 * 2);
        tiles_.shape_tail(rows, tail != 0 ? tail : 64);
    }

    static void rescale(const AttendPanel& b, const float* scale) {
        for (int r = 0; r < b.rows; r++) {
            if (scale[r] == 1) continue;
            float* y = b.y + r * b.ldy;
            for (int64_t d = 0; d < b.ldy; d += 16) store(y + d, load(y + d) * set(scale[r]));
        }
    }

    // What `v` has from row `begin` to the end of its step.
    static ValueRows step_at(const ValueRows& v, int begin) {
        ValueRows step = v;
        const int end = (begin / kStepRows + 1) * kStepRows;
        step.begin = begin, step.end = end < v.end ? end : v.end;
        return step;
    }

    // Whether a panel's rows can go side by side: a weight of 0 does away with what a row does not see, if it is a
    // number.
    static bool together(const AttendRun& a, const AttendPanel& b, const Seen& seen, const ValueRows& step) {
        const bool same = seen.all && seen.max_lo <= step.begin && step.end <= seen.min_hi;
        return b.rows == 1 || same || all_finite<KVType::bf16>(a.head_dim, step);
    }

    // Each row with what it sees.
    void add_apart(const AttendRun& a, const AttendPanel& b, const Seen& seen, const ValueRows& step) {
        shape(a, 1);
        for (int r = 0; r < b.rows; r++) {
            ValueRows own = step;
            own.begin = seen.lo[r] > step.begin ? seen.lo[r] : step.begin;
            own.end = seen.hi[r] < step.end ? seen.hi[r] : step.end;
            if (own.begin < own.end) add_chunks(a.head_dim, own, {b.weights + r * kSpanRows, b.y + r * b.ldy, b.ldy});
        }
    }

    Tiles tiles_;
    FlushTiny flush_;
};

}  // namespace
}  // namespace penstock

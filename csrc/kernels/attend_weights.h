// Scores to weights. Queries were scaled by log2(e), so weights are powers of two, relative to a whole number that a
// row raises by more than it must, at the beginning of a step of kStepRows cache rows: seldom, so that sums need not be
// rescaled in between, and at places that depend on nothing but the scores. Where the cache holds bf16, queries and
// weights are rounded to it, and the sum of weights is that of the rounded ones.
#pragma once
#include "kernels/attend_cache.h"
#include "kernels/math.h"
#include "kernels/table.h"

namespace penstock {
namespace {

constexpr float kLog2e = 1.44269504f;
constexpr float kMargin = 16;  // weights are about 2^-16 at first: far from where floats end, either way

// What a panel's rows see of a span: rows lo <= row < hi of it, nothing where lo >= hi.
struct Seen {
    int lo[kRowsLimit], hi[kRowsLimit], min_lo = 0, max_lo = 0, min_hi = kSpanRows, max_hi = kSpanRows;
    bool all = true;  // every query row sees something

    Seen() = default;
    explicit Seen(int rows) : min_hi(rows), max_hi(rows) {
        for (int r = 0; r < kRowsLimit; r++) lo[r] = 0, hi[r] = rows;
    }
    Seen(const AttendPanel& b, int first, int rows) : min_lo(rows), max_hi(0) {
        for (int r = 0; r < b.rows; r++) {
            lo[r] = b.begin[r] > first ? b.begin[r] - first : 0;
            hi[r] = b.end[r] - first < rows ? b.end[r] - first : rows;
            if (lo[r] >= hi[r]) {
                all = false;
                continue;
            }
            min_lo = lo[r] < min_lo ? lo[r] : min_lo;
            max_lo = lo[r] > max_lo ? lo[r] : max_lo;
            min_hi = hi[r] < min_hi ? hi[r] : min_hi;
            max_hi = hi[r] > max_hi ? hi[r] : max_hi;
        }
    }
    bool nothing() const { return min_lo >= max_hi; }
    int first_group() const { return min_lo / 16; }
    int last_group() const { return (max_hi + 15) / 16; }  // behind the last
};

// A step of one query row.
struct Step1 {
    int r, row, lo, hi;  // first row in the span, rows seen of the step
};

// Memory to fetch while something else is computed: the first `bytes` at each of some places.
struct Early {
    const std::byte* const* memory;
    int count;
    int64_t offset, bytes;

    // Bytes begin <= at < end of each.
    void fetch(int64_t begin, int64_t end) const {
        end = end < bytes ? end : bytes;
        for (int m = 0; m < count; m++)
            for (int64_t at = begin; at < end; at += 64) prefetch(memory[m] + offset + at);
    }
};
// What comes next where memory is read in its order: its beginning, so that the system's own prefetching has begun when
// it is needed (measured: 512 bytes 23 GB/s a core, 2048 bytes 18, none 21).
struct Next {
    const std::byte *values, *keys;
    static constexpr int64_t bytes = 512;

    void fetch(int64_t begin, int64_t end) const {
        end = end < bytes ? end : bytes;
        for (int64_t at = begin; at < end; at += 64) prefetch_near(values + at), prefetch_near(keys + at);
    }
};

// Scores as they count: capped, biased, -infinity where not seen. place: of the lanes, from the partition's first row.
inline F mask_scores(const AttendRun& a, const AttendPanel& b, int r, F s, int place, int lo, int hi) {
    if (a.softcap != 0) s = set(a.softcap * kLog2e) * tanh(s / set(a.softcap));
    if (b.slopes != nullptr) {
        constexpr float kIota[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        s = s + set(b.slopes[r]) * (load(kIota) + set(b.distance[r] + static_cast<float>(place)));
    }
    const int from = lo > 0 ? lo : 0, to = hi < 16 ? hi : 16;
    return select(lanes(from < 16 ? from : 16, to > 0 ? to : 0), s, set(-__builtin_inff()));
}

// Raises what a row's weights are relative to above `top`; gives what the sums so far are worth then.
inline float raise(float& peak, F top) {
    const float old = peak;
    peak = __builtin_ceilf(max_of(top)) + kMargin;
    if (old == -__builtin_inff()) return 0;  // the first time: there are no sums yet
    float shrink[16];
    store(shrink, exp2<false>(set(old - peak)));
    return shrink[0];
}

// Weights of a group times the scales of its values.
inline void scale_weights(const float* scales, float* weights) {
    const F w = load(weights), s = load(scales);
    store(weights, select(less(zero(), w), w * s, zero()));  // an unseen row's scale may be anything
}

// Of one row and step, all of it seen and nothing but scores, or not. Gives whether the sums shrink, by `shrink`.
template <KVType type, bool kPlain>
inline bool weigh_step(const AttendRun& a, const AttendPanel& b, const Step1& s, int first_row, float* shrink) {
    const float* scores = b.scores + s.r * kSpanRows + s.row;
    F x[kStepGroups];
#pragma GCC unroll 8
    for (int g = 0; g < kStepGroups; g++) {
        x[g] = load(scores + g * 16);
        if constexpr (!kPlain)
            x[g] = mask_scores(a, b, s.r, x[g], first_row + s.row + g * 16, s.lo - g * 16, s.hi - g * 16);
    }
    const F top = max(x[0], x[1]);
    static_assert(kStepGroups == 2);
    F mass = load(b.masses + s.r * 16);
    const bool raised = any(less(set(b.peak[s.r]), top));
    if (raised) {
        *shrink = raise(b.peak[s.r], top);
        mass = mass * set(*shrink);
    }
    const F peak = set(b.peak[s.r]);
    const F w0 = exp2<type == KVType::bf16>(x[0] - peak), w1 = exp2<type == KVType::bf16>(x[1] - peak);
    uint32_t* weights = b.weights + s.r * kSpanRows;
    if constexpr (type == KVType::bf16) {
        mass = dot(mass, store_line(weights + s.row / 2, w0, w1), broadcast_line(0x3f803f80));
    } else {
        float* w = reinterpret_cast<float*>(weights) + s.row;
        store(w, w0), store(w + 16, w1);
        mass = mass + w0 + w1;
    }
    store(b.masses + s.r * 16, mass);
    return raised;
}

// A span's scores to weights, of the steps in which anything is seen.
template <KVType type, class Fetch>
void weigh_panel(const AttendRun& a, AttendPanel& b, const Seen& seen, int first_row, const Fetch& early) {
    const int first = seen.min_lo / kStepRows, last = (seen.max_hi + kStepRows - 1) / kStepRows;
    const bool plain = a.softcap == 0 && b.slopes == nullptr;
    const int64_t part = (early.bytes / ((last - first) * b.rows) + 63) / 64 * 64;  // fetched with each row
    int64_t fetched = 0;
    b.shrunk = 0;
    for (int s = first; s < last; s++) {
        const int row = s * kStepRows;
        float* shrink = b.shrink[s];
        store(shrink, set(1));
        bool raised = false;
        for (int r = 0; r < b.rows; r++) {
            early.fetch(fetched, fetched + part);
            fetched += part;
            const Step1 one{r, row, seen.lo[r] - row, seen.hi[r] - row};
            if (one.lo >= kStepRows || one.hi <= 0 || one.lo >= one.hi) {
                std::memset(b.weights + r * kSpanRows + (type == KVType::bf16 ? row / 2 : row), 0,
                            type == KVType::bf16 ? kStepRows * 2 : kStepRows * 4);
                continue;
            }
            if (plain && one.lo <= 0 && one.hi >= kStepRows)
                raised |= weigh_step<type, true>(a, b, one, first_row, shrink + r);
            else
                raised |= weigh_step<type, false>(a, b, one, first_row, shrink + r);
            if constexpr (type == KVType::i8) {
                const int place = first_row + row;
                const int lo = one.lo > 0 ? one.lo : 0, hi = one.hi < kStepRows ? one.hi : kStepRows;
                for (int g = lo / 16; g < (hi + 15) / 16; g++) {
                    const std::byte* tile = a.values[place / 16 + g] + b.offset;
                    float* w = reinterpret_cast<float*>(b.weights) + r * kSpanRows + row + g * 16;
                    scale_weights(reinterpret_cast<const float*>(tile) + (place + g * 16) % a.tile_rows, w);
                }
            }
        }
        b.shrunk |= static_cast<uint32_t>(raised) << s;
    }
}

}  // namespace
}  // namespace penstock

// Attention of panels of query rows over one partition of a cache: one pass, scores kept for kStepRows rows at a time
// (flash attention; Dao 2022). The value of a query row depends on the cache rows it sees and on their places only:
// what it does not see is never multiplied in, and every sum runs upwards over the rows. Weights are powers of two: the
// queries were scaled by log2(e). Where the cache holds bf16, queries and weights are rounded to it, and the sum of
// weights is that of the rounded ones.
#pragma once
#include "kernels/attend_cache.h"
#include "kernels/math.h"
#include "kernels/table.h"

namespace penstock {
namespace {

constexpr float kLog2e = 1.44269504f;

// What a panel's rows see of a step: rows lo <= row < hi of it, nothing where lo >= hi.
struct Seen {
    int lo[kMaxRows], hi[kMaxRows], min_lo = 0, max_lo = 0, min_hi = kStepRows, max_hi = kStepRows;
    bool all = true;  // every query row sees something

    Seen() {
        for (int r = 0; r < kMaxRows; r++) lo[r] = 0, hi[r] = kStepRows;
    }
    Seen(const AttendPanel& b, int first) : min_lo(kStepRows), max_hi(0) {
        for (int r = 0; r < b.rows; r++) {
            lo[r] = b.begin[r] > first ? b.begin[r] - first : 0;
            hi[r] = b.end[r] - first < kStepRows ? b.end[r] - first : kStepRows;
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
};

// One query row's scores of a step as they count, in place: capped, biased, -infinity where not seen. Gives the largest
// of them and of `peak`.
inline float mask_scores(const AttendRun& a, const AttendPanel& b, int r, int first_row, int lo, int hi, float peak) {
    float* scores = b.scores + r * kStepRows;
    F top = set(peak);
    if (lo == 0 && hi == kStepRows && a.softcap == 0 && b.slopes == nullptr) {
#pragma GCC unroll 8
        for (int i = 0; i < kStepRows; i += 16) top = max(top, load(scores + i));
        return max_of(top);
    }
    for (int base = 0; base < kStepRows; base += 16) {
        F s = load(scores + base);
        if (a.softcap != 0) s = set(a.softcap * kLog2e) * tanh(s / set(a.softcap));
        if (b.slopes != nullptr) {
            constexpr float kIota[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
            s = s + set(b.slopes[r]) * (load(kIota) + set(b.distance[r] + static_cast<float>(first_row + base)));
        }
        const int from = lo > base ? lo - base : 0, to = hi - base < 16 ? hi - base : 16;
        s = select(lanes(from < 16 ? from : 16, to > 0 ? to : 0), s, set(-__builtin_inff()));
        store(scores + base, s);
        top = max(top, s);
    }
    return max_of(top);
}

// Scores to weights; gives the sum of weights, by lanes.
template <KVType type>
inline F weigh_scores(const float* scores, uint32_t* weights, float peak, F mass) {
    const F top = set(peak);
    F w[kStepGroups];
    constexpr bool kRough = type == KVType::bf16;
#pragma GCC unroll 8
    for (int g = 0; g < kStepGroups; g++) w[g] = exp2<kRough>(load(scores + g * 16) - top);
    if constexpr (type == KVType::bf16) {
        const Line one = broadcast_line(0x3f803f80);
#pragma GCC unroll 8
        for (int g = 0; g < kStepGroups; g += 2) mass = dot(mass, store_line(weights + g * 8, w[g], w[g + 1]), one);
    } else {
#pragma GCC unroll 8
        for (int g = 0; g < kStepGroups; g++)
            store(reinterpret_cast<float*>(weights) + g * 16, w[g]), mass = mass + w[g];
    }
    return mass;
}

// Memory to fetch while something else is computed: the first `bytes` at each of some places.
struct Early {
    const std::byte* const* memory;
    int count;
    int64_t offset, bytes;

    // The i-th of n parts.
    void fetch(int i, int n) const {
        const int64_t begin = bytes * i / n / 64 * 64, end = bytes * (i + 1) / n;
        for (int m = 0; m < count; m++)
            for (int64_t at = begin; at < end; at += 64) prefetch(memory[m] + offset + at);
    }
};

// Weights of rows lo <= row < hi times the scales of their values, which come first in a group.
inline void scale_weights(const std::byte* const* values, int64_t offset, int lo, int hi, float* weights) {
    for (int g = lo / 16; g < (hi + 15) / 16; g++) {
        const F w = load(weights + g * 16), s = load(reinterpret_cast<const float*>(values[g] + offset));
        store(weights + g * 16, select(less(zero(), w), w * s, zero()));  // an unseen row's scale may be anything
    }
}

// A step's scores to weights; shrink[r]: what the sums so far are worth now.
template <KVType type>
void weigh_panel(const AttendRun& a, const AttendPanel& b, const Seen& seen, int first_row, float* shrink,
                 const Early& early) {
    float top[16];
    store(top, zero()), store(shrink, zero());
    for (int r = 0; r < b.rows; r++) {
        shrink[r] = b.peak[r];
        top[r] = b.peak[r];
        if (seen.lo[r] < seen.hi[r]) top[r] = mask_scores(a, b, r, first_row, seen.lo[r], seen.hi[r], b.peak[r]);
    }
    store(shrink, exp2<false>(load(shrink) - load(top)));
    for (int r = 0; r < b.rows; r++) {
        early.fetch(r, b.rows);
        uint32_t* weights = b.weights + r * kStepRows;
        if (seen.lo[r] >= seen.hi[r]) {
            std::memset(weights, 0, kStepRows * 4);
            shrink[r] = 1;
            continue;
        }
        float* mass = b.masses + r * 16;
        store(mass, weigh_scores<type>(b.scores + r * kStepRows, weights, top[r], load(mass) * set(shrink[r])));
        if constexpr (type == KVType::i8)
            scale_weights(a.values + first_row / 16, b.offset, seen.lo[r], seen.hi[r],
                          reinterpret_cast<float*>(weights));
        b.peak[r] = top[r];
    }
}

template <KVType type, int R, int T>
inline void score_some(int64_t head_dim, const uint32_t* q, const std::byte* const* keys, float* scores) {
    if constexpr (type == KVType::i8)
        score_bytes<R, T>(head_dim, q, keys, scores);
    else
        score_groups<type, R, T>(head_dim, q, keys, scores);
}

template <KVType type, int R>
void score_panel(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int from, int to) {
    constexpr int kAtOnce = attend_tiles(R);
    for (; from + kAtOnce <= to; from += kAtOnce)
        score_some<type, R, kAtOnce>(a.head_dim, b.q, keys + from, b.scores + from * 16);
    if constexpr (kAtOnce > 1)
        for (; from < to; from++) score_some<type, R, 1>(a.head_dim, b.q, keys + from, b.scores + from * 16);
}

// Adds the values of rows begin <= row < end of a step, all that any row of the panel sees. A row's weight of what it
// does not see is 0, which leaves its sum as it is unless that value is no number; then each row takes its own only.
template <KVType type, int R>
void add_panel(const AttendRun& a, const AttendPanel& b, const Seen& seen, const ValueRows& v, const float* scale) {
    const auto clean = [&](int begin, int end) {
        return all_finite<type>(a.head_dim, v.values, begin > v.begin ? begin : v.begin, end < v.end ? end : v.end);
    };
    const bool same = seen.all && seen.min_lo == seen.max_lo && seen.min_hi == seen.max_hi;
    if (R == 1 || same ||
        (seen.all ? clean(seen.min_lo, seen.max_lo) && clean(seen.min_hi, seen.max_hi) : clean(v.begin, v.end)))
        return add_head<type, R>(a.head_dim, v, b.weights, scale, b.y, b.ldy);
    for (int r = 0; r < R; r++) {
        ValueRows own = v;
        own.begin = seen.lo[r] > v.begin ? seen.lo[r] : v.begin;
        own.end = seen.hi[r] < v.end ? seen.hi[r] : v.end;
        if (own.begin >= own.end) own.begin = own.end = 0;
        add_head<type, 1>(a.head_dim, own, b.weights + r * kStepRows, scale == nullptr ? nullptr : scale + r,
                          b.y + r * b.ldy, b.ldy);
    }
}

// By the number of rows of a panel.
template <KVType type, int R = kMaxRows>
void score(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int from, int to) {
    if (b.rows == R) return score_panel<type, R>(a, b, keys, from, to);
    if constexpr (R > 1) score<type, R - 1>(a, b, keys, from, to);
}
template <KVType type, int R = kMaxRows>
void add(const AttendRun& a, const AttendPanel& b, const Seen& seen, const ValueRows& v, const float* scale) {
    if (b.rows == R) return add_panel<type, R>(a, b, seen, v, scale);
    if constexpr (R > 1) add<type, R - 1>(a, b, seen, v, scale);
}

// One panel, its groups side by side. The next step's memory is fetched in the meantime.
template <KVType type>
void attend_alone(const AttendRun& a) {
    const AttendPanel& b = a.panels[0];
    for (int group0 = 0; group0 < a.groups; group0 += kStepGroups) {
        const Seen seen(b, group0 * 16);
        if (seen.nothing()) continue;
        const int from = seen.min_lo / 16, to = (seen.max_hi + 15) / 16;
        const std::byte *keys[kStepGroups], *values[kStepGroups], *next[2 * kStepGroups];
        int count = 0;
        for (int g = from; g < to; g++) {
            keys[g] = a.keys[group0 + g] + b.offset;
            values[g] = a.values[group0 + g] + b.offset;
            if (!a.ahead || group0 + g + kStepGroups >= a.known) continue;
            next[count++] = a.keys[group0 + g + kStepGroups];
            next[count++] = a.values[group0 + g + kStepGroups];
        }
        score<type>(a, b, keys, from, to);
        float shrink[16];
        weigh_panel<type>(a, b, seen, group0 * 16, shrink, {next, count, b.offset, a.group_bytes});
        add<type>(a, b, seen, {values, seen.min_lo, seen.max_hi}, shrink);
    }
}

// Many panels: a step's keys group by group, in each head after head, then its values. Reading memory in its order is
// what counts here: the system's own prefetching then keeps up, by hand it would be slower (measured: 34 and 19 GB/s a
// core). While weights are computed the first values are fetched.
template <KVType type>
void attend_in_order(const AttendRun& a) {
    const Seen whole;
    int first = 0, last = a.groups * 16;  // where all rows see everything
    for (int i = 0; i < a.count; i++) {
        for (int r = 0; r < a.panels[i].rows; r++) {
            first = a.panels[i].begin[r] > first ? a.panels[i].begin[r] : first;
            last = a.panels[i].end[r] < last ? a.panels[i].end[r] : last;
        }
    }
    const std::byte* memory[kStepGroups];
    for (int group0 = 0; group0 < a.groups; group0 += kStepGroups) {
        const bool all = first <= group0 * 16 && group0 * 16 + kStepRows <= last;
        Seen part;
        const auto seen_by = [&](int i) -> const Seen& {
            if (all) return whole;
            return part = Seen(a.panels[i], group0 * 16);
        };
        int from = kStepGroups, to = 0;
        for (int i = 0; i < a.count && (from > 0 || to < kStepGroups); i++) {
            const Seen& seen = seen_by(i);
            if (seen.nothing()) continue;
            from = seen.min_lo / 16 < from ? seen.min_lo / 16 : from;
            to = (seen.max_hi + 15) / 16 > to ? (seen.max_hi + 15) / 16 : to;
        }
        for (int g = from; g < to; g++) {
            for (int i = 0; i < a.count; i++) {
                memory[g] = a.keys[group0 + g] + a.panels[i].offset;
                score<type>(a, a.panels[i], memory, g, g + 1);
            }
        }
        for (int i = 0; i < a.count; i++)
            weigh_panel<type>(a, a.panels[i], seen_by(i), group0 * 16, a.shrink[i],
                              {a.values + group0 + from, from < to, a.panels[i].offset, a.group_bytes});
        for (int g = from; g < to; g++) {
            for (int i = 0; i < a.count; i++) {
                const Seen& seen = seen_by(i);
                const int begin = seen.min_lo > g * 16 ? seen.min_lo : g * 16;
                const int end = seen.max_hi < g * 16 + 16 ? seen.max_hi : g * 16 + 16;
                if (begin >= end) continue;
                memory[g] = a.values[group0 + g] + a.panels[i].offset;
                const float* scale = begin == seen.min_lo ? a.shrink[i] : nullptr;
                add<type>(a, a.panels[i], seen, {memory, begin, end}, scale);
            }
        }
    }
}

template <KVType type>
void attend(const AttendRun& a) {
    for (int i = 0; i < a.count; i++) {
        const AttendPanel& b = a.panels[i];
        for (int r = 0; r < b.rows; r++) b.peak[r] = -__builtin_inff();
        std::memset(b.masses, 0, static_cast<size_t>(b.rows) * 64);
        std::memset(b.y, 0, static_cast<size_t>(b.rows * b.ldy) * 4);
    }
    if (a.in_order)
        attend_in_order<type>(a);
    else
        attend_alone<type>(a);
    for (int i = 0; i < a.count; i++) {
        const AttendPanel& b = a.panels[i];
        for (int r = 0; r < b.rows; r++) b.mass[r] = sum(load(b.masses + r * 16));
    }
}

void merge(float* y, float* peak, float* mass, const float* more, float more_peak, float more_mass, int64_t head_dim) {
    if (more_mass == 0) return;  // nothing was seen there
    if (*mass == 0) {
        std::memcpy(y, more, static_cast<size_t>(head_dim) * 4);
        *peak = more_peak;
        *mass = more_mass;
        return;
    }
    const float top = *peak > more_peak ? *peak : more_peak;
    float a[16], c[16];
    store(a, exp2<false>(set(*peak - top)));
    store(c, exp2<false>(set(more_peak - top)));
    const F old_part = set(a[0]), new_part = set(c[0]);
    for (int64_t d = 0; d < head_dim; d += 16) {
        const int n = static_cast<int>(head_dim - d < 16 ? head_dim - d : 16);
        store(y + d, fma(load(more + d, n), new_part, load(y + d, n) * old_part), n);
    }
    *peak = top;
    *mass = *mass * a[0] + more_mass * c[0];
}

void divide(const float* y, float mass, float* out, int64_t head_dim) {
    for (int64_t d = 0; d < head_dim; d += 16) {
        const int n = static_cast<int>(head_dim - d < 16 ? head_dim - d : 16);
        store(out + d, load(y + d, n) / set(mass), n);
    }
}

void add_attention(Kernels& k) {
    k.attend_rows = kMaxRows;
    k.attend_rows_many = kMaxRows < 6 ? kMaxRows : 6;  // six rows by four groups fill the registers of AVX-512
    k.attend[static_cast<int>(KVType::f32)] = attend<KVType::f32>;
    k.attend[static_cast<int>(KVType::f16)] = attend<KVType::f16>;
    k.attend[static_cast<int>(KVType::bf16)] = attend<KVType::bf16>;
    k.attend[static_cast<int>(KVType::i8)] = attend<KVType::i8>;
    k.merge = merge;
    k.divide = divide;
}

}  // namespace
}  // namespace penstock

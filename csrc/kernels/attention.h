// Attention of a panel of query rows over one partition of a cache: one pass, sixteen cache rows a group, scores kept
// for kStepRows rows at a time (flash attention; Dao 2022). The value of a query row depends on the cache rows it sees
// and on their places only: what it does not see is never multiplied in, and every sum runs upwards over the rows.
#pragma once
#include "kernels/math.h"
#include "kernels/step.h"
#include "kernels/table.h"

namespace penstock {
namespace {

constexpr int kStepGroups = kStepRows / 16;

// Groups, or vectors of a value row, in flight for so many query rows.
constexpr int attend_tiles(int rows) {
    const int n = kAccumulators / rows;
    return n < 1 ? 1 : n > kStepGroups ? kStepGroups : n;
}

// Which group's memory to fetch while this one's is worked on, line for line, so that memory is asked for evenly: the
// one a step further on. Where there is nothing to fetch it is the group itself, which costs nothing. (Measured for one
// token over 8192 rows: 17 to 20 GB/s; all at once before each step 13 to 14.)
inline int group_ahead(const AttendBlock& b, int group) {
    return b.ahead && group + kStepGroups < b.known ? group + kStepGroups : group;
}

template <KVType>
struct Cache;

template <>
struct Cache<KVType::f32> {
    static constexpr Format kFormat = Format::f32;
    static constexpr int kBytes = 4;
    static F value(const std::byte* group, int64_t head_dim, int64_t row, int64_t d, int n) {
        const float* p = reinterpret_cast<const float*>(group) + row * head_dim + d;
        return n == 16 ? load(p) : load(p, n);
    }
};
template <>
struct Cache<KVType::f16> {
    static constexpr Format kFormat = Format::f16;
    static constexpr int kBytes = 2;
    static F value(const std::byte* group, int64_t head_dim, int64_t row, int64_t d, int n) {
        const uint16_t* p = reinterpret_cast<const uint16_t*>(group) + row * head_dim + d;
        return n == 16 ? load_f16(p) : load_f16(p, n);
    }
};
template <>
struct Cache<KVType::bf16> {
    static constexpr Format kFormat = Format::bf16;
    static constexpr int kBytes = 2;
    static Pairs values(const std::byte* group, int64_t head_dim, int64_t pair, int64_t d, int n) {
        const uint32_t* p = reinterpret_cast<const uint32_t*>(group) + pair * head_dim + d;
        return n == 16 ? load_pairs(p) : load_pairs(p, n);
    }
    static F value(const std::byte* group, int64_t head_dim, int64_t row, int64_t d, int n) {
        const Pairs p = values(group, head_dim, row / 2, d, n);
        return row % 2 ? p.odd : p.even;
    }
};

// y[r] += sum over cache rows begin .. end of weights[r][row] * value[row], for T x 16 elements from d on.
template <KVType type, int R, int T, bool kTail>
inline void add_values(const AttendBlock& b, int group0, const float* weights, int begin, int end, const float* scale,
                       float* y, int64_t d, int n) {
    F acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) acc[r][t] = load(y + r * b.ldy + d + t * 16) * set(scale[r]);
    const auto add = [&](int row, const F(&v)[T]) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const F w = set(weights[r * kStepRows + row]);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = fma(w, v[t], acc[r][t]);
        }
    };
    const int width = kTail ? n : 16;
    int row = begin;
    while (row < end) {
        const std::byte* group = b.values[group0 + row / 16];
        const std::byte* ahead = b.values[group_ahead(b, group0 + row / 16)];
        if constexpr (type == KVType::bf16) {
            if (row % 2 == 0 && row + 1 < end) {
                F even[T], odd[T];
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) {
                    const Pairs p = Cache<type>::values(group, b.head_dim, row % 16 / 2, d + t * 16, width);
                    prefetch(ahead + (row % 16 / 2 * b.head_dim + d + t * 16) * 4);
                    even[t] = p.even;
                    odd[t] = p.odd;
                }
                add(row, even);
                add(row + 1, odd);
                row += 2;
                continue;
            }
        }
        F v[T];
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) {
            v[t] = Cache<type>::value(group, b.head_dim, row % 16, d + t * 16, width);
            prefetch(ahead + (row % 16 * b.head_dim + d + t * 16) * Cache<type>::kBytes);
        }
        add(row, v);
        row++;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) store(y + r * b.ldy + d + t * 16, acc[r][t]);
}

template <KVType type, int R>
void add_head(const AttendBlock& b, int group0, const float* weights, int begin, int end, const float* scale,
              float* y) {
    constexpr int kAtOnce = attend_tiles(R);
    int64_t d = 0;
    for (; d + 16 * kAtOnce <= b.head_dim; d += 16 * kAtOnce)
        add_values<type, R, kAtOnce, false>(b, group0, weights, begin, end, scale, y, d, 16);
    if constexpr (kAtOnce > 1)
        for (; d + 16 <= b.head_dim; d += 16)
            add_values<type, R, 1, false>(b, group0, weights, begin, end, scale, y, d, 16);
    if (d < b.head_dim)
        add_values<type, R, 1, true>(b, group0, weights, begin, end, scale, y, d, static_cast<int>(b.head_dim - d));
}

// Scores of R query rows and T groups, from the `from`-th group of the step on: lanes are cache rows.
template <KVType type, int R, int T>
inline void score_groups(const AttendBlock& b, int group0, int from) {
    using S = Step<Cache<type>::kFormat, Act::f32>;
    const std::byte *w[T], *ahead[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; t++) {
        w[t] = b.keys[group0 + from + t];
        ahead[t] = b.keys[group_ahead(b, group0 + from + t)];
    }
    const uint32_t* a = reinterpret_cast<const uint32_t*>(b.q);
    F acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) acc[r][t] = zero();
    for (int64_t i = 0; i < b.head_dim / S::kInputs; i++, a += S::kWords * R) {
        typename S::Weights line[T];
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) {
            line[t] = S::load(w[t] + i * S::kBytes);
            prefetch(ahead[t] + i * S::kBytes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const F x = S::word(a[r]);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = S::template add<0>(acc[r][t], line[t], x);
        }
        if constexpr (S::kWords == 2) {
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                const F x = S::word(a[R + r]);
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) acc[r][t] = S::template add<1>(acc[r][t], line[t], x);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) store(b.scores + r * kStepRows + (from + t) * 16, acc[r][t]);
}

// Masks one query row's scores of a step in place, lo <= row < hi being seen; gives the largest so far.
inline float mask_scores(const AttendBlock& b, int r, int first_row, int lo, int hi, float peak) {
    float* scores = b.scores + r * kStepRows;
    F top = set(peak);
    if (lo == 0 && hi == kStepRows && b.softcap == 0 && b.slopes == nullptr) {
#pragma GCC unroll 4
        for (int i = 0; i < kStepRows; i += 16) top = max(top, load(scores + i));
        return max_of(top);
    }
    for (int base = lo / 16 * 16; base < hi; base += 16) {
        F s = load(scores + base);
        if (b.softcap != 0) s = set(b.softcap) * tanh(s / set(b.softcap));
        if (b.slopes != nullptr) {
            constexpr float kIota[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
            s = s + set(b.slopes[r]) * (load(kIota) + set(b.distance[r] + static_cast<float>(first_row + base)));
        }
        s = select(lanes(lo > base ? lo - base : 0, hi - base < 16 ? hi - base : 16), s, set(-__builtin_inff()));
        store(scores + base, s);
        top = max(top, s);
    }
    return max_of(top);
}

// Scores to weights, in place; what is not seen weighs nothing.
inline F weigh_scores(float* scores, int lo, int hi, float peak, F mass) {
    if (lo == 0 && hi == kStepRows) {
        F w[kStepGroups];
#pragma GCC unroll 4
        for (int g = 0; g < kStepGroups; g++) w[g] = exp(load(scores + g * 16) - set(peak));
#pragma GCC unroll 4
        for (int g = 0; g < kStepGroups; g++) store(scores + g * 16, w[g]), mass = mass + w[g];
        return mass;
    }
    for (int base = lo / 16 * 16; base < hi; base += 16) {
        const F w = exp(load(scores + base) - set(peak));
        store(scores + base, w);
        mass = mass + w;
    }
    return mass;
}

// What R query rows see of a step: rows lo <= row < hi of it, nothing where lo >= hi.
template <int R>
struct Seen {
    int lo[R], hi[R], min_lo = kStepRows, max_lo = 0, min_hi = kStepRows, max_hi = 0;
    bool all = true;  // every query row sees something

    Seen(const AttendBlock& b, int first) {
        for (int r = 0; r < R; r++) {
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
};

template <KVType type, int R>
void attend_rows(const AttendBlock& b) {
    constexpr int kAtOnce = attend_tiles(R);
    F mass[R];
    float peak[16], top[16], shrink[16];
    for (int r = 0; r < 16; r++) peak[r] = top[r] = -__builtin_inff();
    for (int r = 0; r < R; r++) {
        mass[r] = zero();
        std::memset(b.y + r * b.ldy, 0, static_cast<size_t>(b.ldy) * 4);
    }
    for (int group0 = 0; group0 < b.groups; group0 += kStepGroups) {
        const Seen<R> seen(b, group0 * 16);
        if (seen.min_lo >= seen.max_hi) continue;
        int from = seen.min_lo / 16;
        const int to = (seen.max_hi + 15) / 16;
        for (; from + kAtOnce <= to; from += kAtOnce) score_groups<type, R, kAtOnce>(b, group0, from);
        if constexpr (kAtOnce > 1)
            for (; from < to; from++) score_groups<type, R, 1>(b, group0, from);
        for (int r = 0; r < R; r++)
            if (seen.lo[r] < seen.hi[r]) top[r] = mask_scores(b, r, group0 * 16, seen.lo[r], seen.hi[r], peak[r]);
        store(shrink, exp(load(peak) - load(top)));
        for (int r = 0; r < R; r++) {
            if (seen.lo[r] >= seen.hi[r]) continue;
            mass[r] = weigh_scores(b.scores + r * kStepRows, seen.lo[r], seen.hi[r], top[r], mass[r] * set(shrink[r]));
            peak[r] = top[r];
        }
        // Rows that all query rows see are added for all at once, the rest one by one; upwards in either case.
        const bool together = seen.all && seen.min_lo == seen.max_lo;
        if (together) add_head<type, R>(b, group0, b.scores, seen.min_lo, seen.min_hi, shrink, b.y);
        if (together && seen.min_hi == seen.max_hi) continue;
        constexpr float kKeep = 1;
        for (int r = 0; r < R; r++) {
            const int begin = together ? seen.min_hi : seen.lo[r];
            if (begin >= seen.hi[r]) continue;
            add_head<type, 1>(b, group0, b.scores + r * kStepRows, begin, seen.hi[r], together ? &kKeep : &shrink[r],
                              b.y + r * b.ldy);
        }
    }
    for (int r = 0; r < R; r++) {
        b.peak[r] = peak[r];
        b.mass[r] = sum(mass[r]);
    }
}

template <KVType type, int R = kMaxRows>
void attend_kernel(const AttendBlock& b) {
    if (b.rows == R) return attend_rows<type, R>(b);
    if constexpr (R > 1) attend_kernel<type, R - 1>(b);
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
    store(a, exp(set(*peak - top)));
    store(c, exp(set(more_peak - top)));
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
    k.attend[static_cast<int>(KVType::f32)] = attend_kernel<KVType::f32>;
    k.attend[static_cast<int>(KVType::f16)] = attend_kernel<KVType::f16>;
    k.attend[static_cast<int>(KVType::bf16)] = attend_kernel<KVType::bf16>;
    k.merge = merge;
    k.divide = divide;
}

}  // namespace
}  // namespace penstock

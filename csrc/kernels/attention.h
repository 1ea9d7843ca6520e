// Attention by lines: one of the cache meets a word of each query row of a panel.
#pragma once
#include "kernels/attend_cache.h"
#include "kernels/attend_panels.h"
#include "kernels/attend_weights.h"

namespace penstock {
namespace {

template <KVType type, int R, int T>
inline void score_some(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int group, Ahead ahead) {
    if constexpr (type == KVType::i8)
        score_bytes<R, T>(a.head_dim, a.tile_rows / 16, b.q, keys + group, ahead, b.scores + group * 16);
    else
        score_groups<type, R, T>(a.head_dim, a.tile_rows / 16, b.q, keys + group, ahead, b.scores + group * 16);
}

template <KVType type, int R>
void score_panel(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int from, int to,
                 Ahead ahead) {
    constexpr int kAtOnce = attend_tiles(R);
    for (; from + kAtOnce <= to; from += kAtOnce) score_some<type, R, kAtOnce>(a, b, keys, from, ahead);
    if constexpr (kAtOnce > 2)
        for (; from + 2 <= to; from += 2) score_some<type, R, 2>(a, b, keys, from, ahead);
    if constexpr (kAtOnce > 1)
        for (; from < to; from++) score_some<type, R, 1>(a, b, keys, from, ahead);
}

// Adds the values of rows begin <= row < end of a span, all that any row of the panel sees. A row's weight of what it
// does not see is 0, which leaves its sum as it is unless that value is no number; then each row takes its own only.
template <KVType type, int R>
void add_panel(const AttendRun& a, const AttendPanel& b, const Seen& seen, const ValueRows& v, const float* scale) {
    const auto clean = [&](int begin, int end) {
        ValueRows part = v;
        part.begin = begin > v.begin ? begin : v.begin;
        part.end = end < v.end ? end : v.end;
        return all_finite<type>(a.head_dim, part);
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
        add_head<type, 1>(a.head_dim, own, b.weights + r * kSpanRows, scale == nullptr ? nullptr : scale + r,
                          b.y + r * b.ldy, b.ldy);
    }
}

// By the number of rows of a panel.
template <KVType type, int R = kMaxRows>
void score(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int from, int to, Ahead ahead) {
    if (b.rows == R) return score_panel<type, R>(a, b, keys, from, to, ahead);
    if constexpr (R > 1) score<type, R - 1>(a, b, keys, from, to, ahead);
}
template <KVType type, int R = kMaxRows>
void add(const AttendRun& a, const AttendPanel& b, const Seen& seen, const ValueRows& v, const float* scale) {
    if (b.rows == R) return add_panel<type, R>(a, b, seen, v, scale);
    if constexpr (R > 1) add<type, R - 1>(a, b, seen, v, scale);
}

template <KVType type>
struct LineProducts {
    static constexpr KVType kType = type;
    static constexpr int kTogether = 1;
    void score(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int from, int to, Ahead ahead) {
        penstock::score<type>(a, b, keys, from, to, ahead);
    }
    template <class Fetch>
    void weigh(const AttendRun& a, AttendPanel& b, const Seen& seen, int first_row, const Fetch& early) {
        weigh_panel<type>(a, b, seen, first_row, early);
    }
    void add(const AttendRun& a, const AttendPanel& b, const Seen& seen, const ValueRows& v, const float* scale) {
        penstock::add<type>(a, b, seen, v, scale);
    }
};

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
    for (int type = 0; type < kKVTypes; type++) {
        k.attend_rows[type] = kMaxRows;
        k.attend_rows_many[type] = kMaxRows < 6 ? kMaxRows : 6;  // six rows by four groups fill AVX-512's registers
        k.attend_beside[type] = 1;
    }
    k.attend[static_cast<int>(KVType::f32)] = attend<LineProducts<KVType::f32>>;
    k.attend[static_cast<int>(KVType::f16)] = attend<LineProducts<KVType::f16>>;
    k.attend[static_cast<int>(KVType::bf16)] = attend<LineProducts<KVType::bf16>>;
    k.attend[static_cast<int>(KVType::i8)] = attend<LineProducts<KVType::i8>>;
    k.merge = merge;
    k.divide = divide;
}

}  // namespace
}  // namespace penstock

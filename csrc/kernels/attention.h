// Attention of panels of query rows over one partition of a cache: one pass, scores kept for some rows at a time (flash
// attention; Dao 2022). The value of a query row depends on the cache rows it sees and on their places only: what it
// does not see is never multiplied in, and every sum runs upwards over the rows.
#pragma once
#include "kernels/attend_cache.h"
#include "kernels/attend_weights.h"

namespace penstock {
namespace {

template <KVType type, int R, int T>
inline void score_some(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int group,
                       int64_t ahead) {
    if constexpr (type == KVType::i8)
        score_bytes<R, T>(a.head_dim, a.tile_rows / 16, b.q, keys + group, ahead, b.scores + group * 16);
    else
        score_groups<type, R, T>(a.head_dim, a.tile_rows / 16, b.q, keys + group, ahead, b.scores + group * 16);
}

template <KVType type, int R>
void score_panel(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int from, int to,
                 int64_t ahead) {
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
void score(const AttendRun& a, const AttendPanel& b, const std::byte* const* keys, int from, int to, int64_t ahead) {
    if (b.rows == R) return score_panel<type, R>(a, b, keys, from, to, ahead);
    if constexpr (R > 1) score<type, R - 1>(a, b, keys, from, to, ahead);
}
template <KVType type, int R = kMaxRows>
void add(const AttendRun& a, const AttendPanel& b, const Seen& seen, const ValueRows& v, const float* scale) {
    if (b.rows == R) return add_panel<type, R>(a, b, seen, v, scale);
    if constexpr (R > 1) add<type, R - 1>(a, b, seen, v, scale);
}

// Adds the values of rows begin <= row < end of a span to a panel's sums, rescaling these where they shrink.
template <KVType type>
void add_span(const AttendRun& a, const AttendPanel& b, const Seen& seen, int group0, int begin, int end,
              int64_t ahead) {
    const auto shrinks = [&](int step) { return (b.shrunk >> step & 1) != 0; };
    while (begin < end) {
        const int step = begin / kStepRows, start = step * kStepRows;
        const bool first = begin == (seen.min_lo > start ? seen.min_lo : start);
        int to = start + kStepRows;
        while (to < end && !shrinks(to / kStepRows)) to += kStepRows;
        to = to < end ? to : end;
        const ValueRows v{a.values + group0, b.offset, a.tile_rows, begin, to, ahead};
        add<type>(a, b, seen, v, first && shrinks(step) ? b.shrink[step] : nullptr);
        begin = to;
    }
}

// One panel, its groups side by side. The next span's memory is fetched in the meantime.
template <KVType type>
void attend_alone(const AttendRun& a) {
    AttendPanel& b = a.panels[0];
    for (int group0 = 0; group0 < a.groups; group0 += kSpanGroups) {
        const Seen seen(b, group0 * 16, kSpanRows);
        if (seen.nothing()) continue;
        const int from = seen.min_lo / 16, to = (seen.max_hi + 15) / 16;
        const std::byte *keys[kSpanGroups], *next[2 * kSpanGroups];
        int count = 0;
        for (int g = from; g < to; g++) {
            keys[g] = a.keys[group0 + g] + b.offset;
            if (!a.ahead || group0 + g + kSpanGroups >= a.known) continue;
            next[count++] = a.keys[group0 + g + kSpanGroups];
            next[count++] = a.values[group0 + g + kSpanGroups];
        }
        score<type>(a, b, keys, from, to, 0);
        weigh_panel<type>(a, b, seen, group0 * 16, Early{next, count, b.offset, a.group_bytes});
        add_span<type>(a, b, seen, group0, seen.min_lo, seen.max_hi, 0);
    }
}

// Panels first <= i < last over one span: keys tile by tile, in each panel after panel, then values. Reading memory in
// its order is what counts here. While keys meet queries and values their weights, what comes next is fetched at the
// same pace, if it is known; while weights are computed, its beginning and that of the values.
template <KVType type>
void attend_span(const AttendRun& a, int first, int last, int group0, int groups, bool all,
                 const std::byte* next_keys) {
    // Values lie as keys do: what comes next is as far away. The first panel asks for it, line by line.
    const int64_t ahead = next_keys != nullptr ? next_keys - (a.keys[group0] + a.panels[first].offset) : 0;
    const int rows = groups * 16;
    const Seen whole(rows);
    Seen part(0);
    const auto seen_by = [&](int i) -> const Seen& {
        if (all) return whole;
        return part = Seen(a.panels[i], group0 * 16, rows);
    };
    int from = all ? 0 : groups, to = all ? groups : 0;
    for (int i = first; i < last && (from > 0 || to < groups); i++) {
        const Seen& seen = seen_by(i);
        if (seen.nothing()) continue;
        from = seen.min_lo / 16 < from ? seen.min_lo / 16 : from;
        to = (seen.max_hi + 15) / 16 > to ? (seen.max_hi + 15) / 16 : to;
    }
    const std::byte* memory[kSpanGroups];
    const int tile = a.tile_rows / 16;
    for (int g = from; g < to;) {
        const int next = (g / tile + 1) * tile < to ? (g / tile + 1) * tile : to;
        for (int i = first; i < last; i++) {
            for (int t = g; t < next; t++) memory[t] = a.keys[group0 + t] + a.panels[i].offset;
            score<type>(a, a.panels[i], memory, g, next, i == first ? ahead : 0);
        }
        g = next;
    }
    for (int i = first; i < last; i++) {
        const Seen& seen = seen_by(i);
        if (seen.nothing()) continue;
        const int64_t offset = a.panels[i].offset;
        if (next_keys != nullptr)
            weigh_panel<type>(a, a.panels[i], seen, group0 * 16, Next{a.values[group0 + from] + offset, next_keys});
        else
            weigh_panel<type>(a, a.panels[i], seen, group0 * 16,
                              Early{a.values + group0 + from, 1, offset, a.group_bytes});
    }
    // A tile's rows at once.
    for (int row = from * 16; row < to * 16;) {
        const int next = (row / a.tile_rows + 1) * a.tile_rows;
        for (int i = first; i < last; i++) {
            const Seen& seen = seen_by(i);
            const int begin = seen.min_lo > row ? seen.min_lo : row, end = seen.max_hi < next ? seen.max_hi : next;
            add_span<type>(a, a.panels[i], seen, group0, begin, end, i == first ? ahead : 0);
        }
        row = next;
    }
}

// Many panels.
template <KVType type>
void attend_in_order(const AttendRun& a) {
    int first = 0, last = a.groups * 16;  // where all rows see everything
    for (int i = 0; i < a.count; i++) {
        for (int r = 0; r < a.panels[i].rows; r++) {
            first = a.panels[i].begin[r] > first ? a.panels[i].begin[r] : first;
            last = a.panels[i].end[r] < last ? a.panels[i].end[r] : last;
        }
    }
    const auto span = [&](int panel, int panels, int group, int groups, const std::byte* next_keys) {
        const int count = a.groups - group < groups ? a.groups - group : groups;
        const bool all = count == groups && first <= group * 16 && (group + count) * 16 <= last;
        attend_span<type>(a, panel, panel + panels, group, count, all, next_keys);
    };
    if (a.order == AttendOrder::rows) {
        for (int g = 0; g < a.groups; g += kSpanGroups) span(0, a.count, g, kSpanGroups, nullptr);
        return;
    }
    for (int block = 0; block < a.groups; block += a.block_groups) {
        const int end = block + a.block_groups < a.groups ? block + a.block_groups : a.groups;
        for (int i = 0; i < a.count; i += a.head_panels) {
            for (int g = block; g < end; g += kStepGroups) {
                const bool same = g + kStepGroups < end, last = i + a.head_panels >= a.count;
                const int next = same ? g + kStepGroups : !last ? block : end < a.known ? end : g;
                const int panel = same || end >= a.known ? i : last ? 0 : i + a.head_panels;
                span(i, a.head_panels, g, kStepGroups, a.keys[next] + a.panels[panel].offset);
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
    if (a.order == AttendOrder::alone)
        attend_alone<type>(a);
    else
        attend_in_order<type>(a);
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

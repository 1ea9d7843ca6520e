// How panels of query rows go through one partition of a cache: one pass, scores kept for some rows at a time (flash
// attention; Dao 2022). The value of a query row depends on the cache rows it sees and on their places only: what it
// does not see is never multiplied in, and every sum runs upwards over the rows. `Products` says how it is computed:
//   score(a, b, keys, from, to, ahead)         a panel's scores of groups from <= g < to of a span
//   weigh(a, b, seen, first_row, early)        a span's scores to weights
//   add(a, b, seen, values, scale)             weighted values to a panel's sums, which are multiplied by scale before
//   kType, kTogether                           of the cache; rows of a span whose values are added at once, at least
#pragma once
#include "kernels/attend_weights.h"

namespace penstock {
namespace {

// Adds the values of rows begin <= row < end of a span to a panel's sums, rescaling these where they shrink.
template <class Products>
void add_span(Products& products, const AttendRun& a, const AttendPanel& b, const Seen& seen, int group0, int begin,
              int end, Ahead ahead) {
    const auto shrinks = [&](int step) { return (b.shrunk >> step & 1) != 0; };
    while (begin < end) {
        const int step = begin / kStepRows, start = step * kStepRows;
        const bool first = begin == (seen.min_lo > start ? seen.min_lo : start);
        int to = start + kStepRows;
        while (to < end && !shrinks(to / kStepRows)) to += kStepRows;
        to = to < end ? to : end;
        const ValueRows v{a.values + group0, b.offset, a.tile_rows, begin, to, ahead};
        products.add(a, b, seen, v, first && shrinks(step) ? b.shrink[step] : nullptr);
        begin = to;
    }
}

// Panels of one head, a span in one after the other, its groups side by side. The next span's memory is fetched in the
// meantime.
template <class Products>
void attend_beside(Products& products, const AttendRun& a) {
    Seen seen[kPanelsBeside];
    for (int group0 = 0; group0 < a.groups; group0 += kSpanGroups) {
        int from = kSpanGroups, to = 0;
        for (int i = 0; i < a.count; i++) {
            seen[i] = Seen(a.panels[i], group0 * 16, kSpanRows);
            if (seen[i].nothing()) continue;
            from = seen[i].first_group() < from ? seen[i].first_group() : from;
            to = seen[i].last_group() > to ? seen[i].last_group() : to;
        }
        if (from >= to) continue;
        const int64_t offset = a.panels[0].offset;
        const std::byte *keys[kSpanGroups], *next[2 * kSpanGroups];
        int count = 0;
        for (int g = from; g < to; g++) {
            keys[g] = a.keys[group0 + g] + offset;
            if (!a.ahead || group0 + g + kSpanGroups >= a.known) continue;
            // A group's part of its tile: groups share lines of keys, one after the other.
            const int in = g % (a.tile_rows / 16), then = group0 + g + kSpanGroups;
            next[count++] = a.keys[then] + in * (a.group_bytes - kv_line_bytes(Products::kType));
            next[count++] = a.values[then] + in * a.group_bytes;
        }
        for (int i = 0; i < a.count; i++)
            if (!seen[i].nothing())
                products.score(a, a.panels[i], keys, seen[i].first_group(), seen[i].last_group(), {});
        for (int i = 0; i < a.count; i++) {
            if (seen[i].nothing()) continue;
            products.weigh(a, a.panels[i], seen[i], group0 * 16, Early{next, count, offset, a.group_bytes});
            count = 0;
        }
        for (int i = 0; i < a.count; i++)
            if (!seen[i].nothing())
                add_span(products, a, a.panels[i], seen[i], group0, seen[i].min_lo, seen[i].max_hi, {});
    }
}

// Panels first <= i < last over one span: keys tile by tile, in each panel after panel, then values. Reading memory in
// its order is what counts here. While keys meet queries and values their weights, what comes next is fetched at the
// same pace, if it is known; while weights are computed, its beginning and that of the values.
template <class Products>
void attend_span(Products& products, const AttendRun& a, int first, int last, int group0, int groups, bool all,
                 const std::byte* next_keys) {
    // Values lie as keys do: what comes next is as far away. The first panel asks for it, line by line.
    Ahead ahead{0, a.halves};
    if (next_keys != nullptr) ahead.bytes = next_keys - (a.keys[group0] + a.panels[first].offset);
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
        from = seen.first_group() < from ? seen.first_group() : from;
        to = seen.last_group() > to ? seen.last_group() : to;
    }
    const std::byte* memory[kSpanGroups];
    const int tile = a.tile_rows / 16;
    for (int g = from; g < to;) {
        const int next = (g / tile + 1) * tile < to ? (g / tile + 1) * tile : to;
        for (int i = first; i < last; i++) {
            for (int t = g; t < next; t++) memory[t] = a.keys[group0 + t] + a.panels[i].offset;
            products.score(a, a.panels[i], memory, g, next, i == first ? ahead : Ahead{});
        }
        g = next;
    }
    for (int i = first; i < last; i++) {
        const Seen& seen = seen_by(i);
        if (seen.nothing()) continue;
        const int64_t offset = a.panels[i].offset;
        if (next_keys != nullptr)
            products.weigh(a, a.panels[i], seen, group0 * 16, Next{a.values[group0 + from] + offset, next_keys});
        else
            products.weigh(a, a.panels[i], seen, group0 * 16,
                           Early{a.values + group0 + from, 1, offset, a.group_bytes});
    }
    const int together = a.tile_rows > Products::kTogether ? a.tile_rows : Products::kTogether;
    for (int row = from * 16; row < to * 16;) {
        const int next = (row / together + 1) * together;
        for (int i = first; i < last; i++) {
            const Seen& seen = seen_by(i);
            const int begin = seen.min_lo > row ? seen.min_lo : row, end = seen.max_hi < next ? seen.max_hi : next;
            add_span(products, a, a.panels[i], seen, group0, begin, end, i == first ? ahead : Ahead{});
        }
        row = next;
    }
}

// Many panels.
template <class Products>
void attend_in_order(Products& products, const AttendRun& a) {
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
        attend_span(products, a, panel, panel + panels, group, count, all, next_keys);
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

template <class Products>
void attend(const AttendRun& a) {
    for (int i = 0; i < a.count; i++) {
        const AttendPanel& b = a.panels[i];
        for (int r = 0; r < b.rows; r++) b.peak[r] = -__builtin_inff();
        std::memset(b.masses, 0, static_cast<size_t>(b.rows) * 64);
        std::memset(b.y, 0, static_cast<size_t>(b.rows * b.ldy) * 4);
    }
    Products products;
    if (a.order == AttendOrder::beside)
        attend_beside(products, a);
    else
        attend_in_order(products, a);
    for (int i = 0; i < a.count; i++) {
        const AttendPanel& b = a.panels[i];
        for (int r = 0; r < b.rows; r++) b.mass[r] = sum(load(b.masses + r * 16));
    }
}

}  // namespace
}  // namespace penstock

// Scores to weights (kernels/attend_weights.h) as tiles of bf16 want them: row after row, since with many query rows
// this is what attention spends most of its time on.
#pragma once
#include "kernels/attend_weights.h"

namespace penstock {
namespace {

// 2^x, to 3e-6 of the value: enough for what is rounded to bf16 next. 0 for -infinity.
inline F exp2_rough(F x) {
    constexpr float kTerms[] = {1.000002623e+00f, 6.930038333e-01f, 2.414427549e-01f, 5.201146379e-02f,
                                1.353416685e-02f};
    return scale_floor(polynomial(above_floor(x), kTerms), x);
}

// One query row of a span: its weights, and what is known of them so far.
struct RowWeights {
    const AttendRun& a;
    AttendPanel& b;
    int r;
    F mass;

    uint32_t* weights(int step) const { return b.weights + r * kSpanRows + step * kStepRows / 2; }
    F score(int step, int group) const { return load(b.scores + r * kSpanRows + step * kStepRows + group * 16); }

    // Sets a step's weights; gives the mass with theirs.
    F set_weights(int step, F x0, F x1, F peak, F so_far) const {
        const Line both = store_line(weights(step), exp2_rough(x0 - peak), exp2_rough(x1 - peak));
        return dot(so_far, both, broadcast_line(0x3f803f80));
    }

    void weigh(int step, F x0, F x1) {
        const F top = max(x0, x1);
        if (any(less(set(b.peak[r]), top))) {
            const float shrink = raise(b.peak[r], top);
            b.shrink[step][r] = shrink;
            b.shrunk |= 1u << step;
            mass = mass * set(shrink);
        }
        mass = set_weights(step, x0, x1, set(b.peak[r]), mass);
    }

    // All steps first <= step < last, all of them seen and nothing but scores.
    void weigh_plain(int first, int last) {
        if (last - first == kSpanSteps && weigh_span()) return;
        for (int step = first; step < last; step++) weigh(step, score(step, 0), score(step, 1));
    }

    // The same of a whole span, but where a peak is to be raised: then nothing is done.
    bool weigh_span() {
        F x[kSpanGroups];
#pragma GCC unroll 16
        for (int g = 0; g < kSpanGroups; g++) x[g] = score(0, g);
        static_assert(kSpanGroups == 8);
        const F top = max(max(max(x[0], x[1]), max(x[2], x[3])), max(max(x[4], x[5]), max(x[6], x[7])));
        const F peak = set(b.peak[r]);
        if (any(less(peak, top))) return false;
        F more = mass;
#pragma GCC unroll 4
        for (int step = 0; step < kSpanSteps; step++)
            more = set_weights(step, x[2 * step], x[2 * step + 1], peak, more);
        mass = more;
        return true;
    }

    // A step of which rows lo <= row < hi are seen, if any.
    void weigh_masked(int step, int first_row, int lo, int hi) {
        lo -= step * kStepRows, hi -= step * kStepRows;
        const int place = first_row + step * kStepRows;
        weigh(step, mask_scores(a, b, r, score(step, 0), place, lo, hi),
              mask_scores(a, b, r, score(step, 1), place + 16, lo - 16, hi - 16));
    }

    void leave_out(int first, int last) {
        for (int step = first; step < last; step++) std::memset(weights(step), 0, kStepRows * 2);
    }
};

// As weigh_panel, of bf16.
template <class Fetch>
void weigh_rows(const AttendRun& a, AttendPanel& b, const Seen& seen, int first_row, const Fetch& early) {
    const int first = seen.min_lo / kStepRows, last = (seen.max_hi + kStepRows - 1) / kStepRows;
    const bool plain = a.softcap == 0 && b.slopes == nullptr;
    const int64_t part = (early.bytes / b.rows + 63) / 64 * 64;  // fetched with each row
    for (int step = first; step < last; step++) store(b.shrink[step], set(1));
    b.shrunk = 0;
    for (int r = 0; r < b.rows; r++) {
        early.fetch(r * part, (r + 1) * part);
        RowWeights row{a, b, r, load(b.masses + r * 16)};
        const int lo = seen.lo[r], hi = seen.hi[r];
        if (lo >= hi) {
            row.leave_out(first, last);
            continue;
        }
        const int begin = lo / kStepRows, end = (hi + kStepRows - 1) / kStepRows;
        int whole = plain ? (lo + kStepRows - 1) / kStepRows : end, whole_end = plain ? hi / kStepRows : end;
        if (whole >= whole_end) whole = whole_end = end;
        row.leave_out(first, begin);
        for (int step = begin; step < whole; step++) row.weigh_masked(step, first_row, lo, hi);
        if (whole < whole_end) row.weigh_plain(whole, whole_end);
        for (int step = whole_end; step < end; step++) row.weigh_masked(step, first_row, lo, hi);
        row.leave_out(end, last);
        store(b.masses + r * 16, row.mass);
    }
}

}  // namespace
}  // namespace penstock

// Inputs of a quantised matrix a step (formats/quant.h) at a time, and their bytes.
#pragma once
#include "kernels/bytes.h"
#include "kernels/table.h"

namespace penstock {
namespace {

// Inputs that share a scale, and where they go in a panel.
struct InputStep {
    const float* x;    // inputs of the chunk
    int64_t from, to;  // filled-up inputs of the chunk
    uint32_t* panel;   // the step's words
};
// f(step, inputs of the chunk before its filled-up input i) for all of a row, in order.
template <class Function>
inline void each_step(const Quant& q, const float* x, uint32_t* panel, int rows, Function f) {
    const int64_t part = q.part(), step = part * q.parts_in_step(), groups = q.groups();
    const int64_t whole = q.per_chunk * q.padded(), step_words = 1 + step / 4 + step / part;
    const bool nothing_filled = q.group == q.padded();
    for (int64_t g = 0; g < groups; g += q.per_chunk) {
        const int64_t filled = g + q.per_chunk < groups ? whole : q.chunk_inputs(g), there = q.inputs - g * q.group;
        const auto real = [&](int64_t i) {
            if (nothing_filled) return i < there ? i : there;
            const int64_t in_group = i % q.padded();
            const int64_t n = i / q.padded() * q.group + (in_group < q.group ? in_group : q.group);
            return n < there ? n : there;
        };
        for (int64_t from = 0; from < filled; from += step) {
            const int64_t to = from + step < filled ? from + step : filled;
            f(InputStep{x, from, to, panel}, real);
            const int64_t n = to - from;
            panel += (n == step ? step_words : 1 + n / 4 + (n + part - 1) / part) * rows;
        }
        x += real(filled);
    }
}

// The bytes of a step, whose parts are filled up with zeros.
template <class Real>
inline void round_step(const InputStep& s, Real real, int64_t part, F factor, int8_t* bytes) {
    const int64_t n = s.to - s.from;
    if (real(s.to) - real(s.from) == n) return round_to_bytes(s.x + s.from, n, n, factor, bytes);
    for (int64_t begin = s.from; begin < s.to; begin += part) {
        const int64_t end = begin + part < s.to ? begin + part : s.to, first = real(begin);
        round_to_bytes(s.x + first, real(end) - first, end - begin, factor, bytes + (begin - s.from));
    }
}

}  // namespace
}  // namespace penstock

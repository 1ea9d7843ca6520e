// The inner loops over quantised weights and quantised inputs: a panel of rows with a piece of one tile, that is a
// chunk (formats/quant.h) or some inputs of a longer one. They take groups of any length; dot_blocks.h has the faster
// ones for usual shapes.
#pragma once
#include "kernels/codes.h"
#include "kernels/table.h"

namespace penstock {
namespace {

constexpr int64_t kPieceInputs = 512;
static_assert(kPieceInputs % kStepInputs == 0 && kPieceInputs % kChunkInputs == 0);

struct PieceRun {
    const Quant* quant;
    SumForm sums;
    const std::byte* chunk;             // the first
    int64_t chunks, bytes;              // and to the next one
    int64_t scales, zeros, codes;       // where they are in a chunk
    bool one_group;                     // all parts belong to it
    int64_t parts, parts_last;          // of a chunk, and of the last one
    int64_t in_step;                    // parts of a step
    int64_t part, part_end, part_last;  // inputs of a part, of the last one of a chunk, and of the last one of all
    const uint32_t* panel;
    float* y;
    int64_t ldy;
};
using PieceKernel = void (*)(const PieceRun&);

// Line `kLine` of a unit meets a word of every row.
template <CodeKind kKind, int kLine, int R>
inline void dot_line(I (&acc)[R], const std::byte* unit, const uint32_t* a) {
    const Codes line = codes_of<kKind, kLine>(unit);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        acc[r] = is_small(kKind) ? dot_small_word(acc[r], line, a + r) : dot_word(acc[r], line, a + r);
    }
}
template <CodeKind kKind, int kFrom, int kTo, int R>
inline void dot_lines(I (&acc)[R], const std::byte* unit, const uint32_t* a) {
    dot_line<kKind, kFrom>(acc, unit, a);
    if constexpr (kFrom + 1 < kTo) dot_lines<kKind, kFrom + 1, kTo>(acc, unit, a + R);
}

constexpr int whole_inputs(CodeKind kind) { return unit_inputs(kind) < 8 ? 8 : unit_inputs(kind); }
constexpr int whole_bytes(CodeKind kind) {
    return whole_inputs(kind) / unit_inputs(kind) * unit_lines(kind) * kLineBytes;
}
// Eight inputs, or a unit that has more; kCount times.
template <CodeKind kKind, int kCount, int R>
inline __attribute__((always_inline)) void dot_units(I (&acc)[R], const std::byte* w, const uint32_t* a) {
    constexpr int kUnit = unit_inputs(kKind);
    if constexpr (kUnit < 8) {
        dot_line<kKind, 0>(acc, w, a);
        dot_line<kKind, 0>(acc, w + kLineBytes, a + R);
    } else {
        dot_lines<kKind, 0, kUnit / 4>(acc, w, a);
    }
    if constexpr (kCount > 1)
        dot_units<kKind, kCount - 1>(acc, w + whole_bytes(kKind), a + whole_inputs(kKind) / 4 * R);
}

// The whole-number products of part number `part`, which has n inputs.
template <CodeKind kKind, int R>
inline __attribute__((always_inline)) void dot_part(I (&acc)[R], const std::byte* w, const uint32_t* a, int64_t part,
                                                    int64_t n) {
    constexpr int kWhole = whole_inputs(kKind), kBytes = whole_bytes(kKind);
    if constexpr (kKind == CodeKind::u3) {  // two groups share a unit
        w += part / 2 * kBytes;
        if (part % 2 == 0) {
            dot_lines<kKind, 0, 4>(acc, w, a);
        } else {
            dot_lines<kKind, 4, 8>(acc, w, a);
        }
    } else if constexpr (kKind == CodeKind::u2 || kKind == CodeKind::u6) {  // groups of 16
        dot_units<kKind, 1>(acc, w + part * kBytes, a);
    } else {
        constexpr int kCount = 32 / kWhole;
        for (; n >= 32; n -= 32, w += kCount * kBytes, a += 8 * R) {
            dot_units<kKind, kCount>(acc, w, a);
        }
        if constexpr (kCount > 1)
            for (; n > 0; n -= kWhole, w += kBytes, a += kWhole / 4 * R) dot_units<kKind, 1>(acc, w, a);
    }
}

// A part of a chunk, within a step: where its scales, codes and inputs are.
struct Part {
    int64_t index, inputs;
    const std::byte* codes;
    const uint32_t* sums;
    const uint32_t* words;
};

// begin_chunk(chunk), begin_step(), part(Part), end_step(scales of the rows) for all of a piece.
template <CodeKind kKind, int R, class Chunk, class Begin, class EachPart, class End>
inline __attribute__((always_inline)) void walk(const PieceRun& b, Chunk begin_chunk, Begin begin_step,
                                                EachPart each_part, End end_step) {
    constexpr bool kShared = kKind == CodeKind::u2 || kKind == CodeKind::u3 || kKind == CodeKind::u6;
    const uint32_t* a = b.panel;
    const std::byte* chunk = b.chunk;
    const int64_t part = b.part, in_step = b.in_step;
    for (int64_t c = b.chunks; c > 0; c--, chunk += b.bytes) {
        const int64_t parts = c > 1 ? b.parts : b.parts_last, last = c > 1 ? b.part_end : b.part_last;
        const std::byte* w = chunk + b.codes;
        begin_chunk(chunk);
        for (int64_t p = 0; p < parts;) {
            const uint32_t* scales = a;
            a += R;
            begin_step();
            const int64_t end = p + in_step < parts ? p + in_step : parts;
            for (; p < end; p++) {
                const int64_t n = p + 1 < parts ? part : last;
                each_part(Part{p, n, w, a, a + R});
                if constexpr (!kShared) w += n / whole_inputs(kKind) * whole_bytes(kKind);
                a += (1 + n / 4) * R;
            }
            end_step(scales);
        }
    }
}

// Scales are numbers: a part's sum becomes a float.
template <CodeKind kKind, int R>
void dot_plain(const PieceRun& b) {
    const Quant& q = *b.quant;
    float* const y_begin = b.y;
    const int64_t ldy = b.ldy, at_scales = b.scales, at_zeros = b.zeros;
    const bool half = q.scales == ScaleKind::f16, constant = q.zeros == ZeroKind::constant, one_group = b.one_group;
    const bool ready = constant && b.sums == SumForm::ready;
    const I less = set_i(-static_cast<int32_t>(q.zero));
    const std::byte* chunk = nullptr;
    F sums[R];
    walk<kKind, R>(
        b, [&](const std::byte* at) __attribute__((always_inline)) { chunk = at; },
        [&]() __attribute__((always_inline)) {
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) sums[r] = zero();
        },
        [&](const Part& p) __attribute__((always_inline)) {
            I acc[R];
            if (ready) {
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) acc[r] = set_i(static_cast<int32_t>(p.sums[r]));
            } else {
#pragma GCC unroll 16
                for (int r = 0; r < R; r++)
                    acc[r] = constant ? less * set_i(static_cast<int32_t>(p.sums[r])) : set_i(0);
            }
            dot_part<kKind>(acc, p.codes, p.words, p.index, p.inputs);
            const int64_t g = one_group ? 0 : p.index;
            const F s = scale_at(chunk + at_scales, half, g);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) sums[r] = fma(to_float(acc[r]), s, sums[r]);
            if (constant) return;
            const F z = shift_at(q, chunk + at_zeros, g, s);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) sums[r] = fma(to_float(set_i(static_cast<int32_t>(p.sums[r]))), z, sums[r]);
        },
        [&](const uint32_t* scales) __attribute__((always_inline)) {
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                float* y = y_begin + r * ldy;
                store(y, fma(sums[r], set(__builtin_bit_cast(float, scales[r])), load(y)));
            }
        });
}

// Scales are whole numbers times one of the chunk: sums stay whole for a step. 256 inputs x 63 x 127 x 128 is well
// within 31 bits.
template <CodeKind kKind, int R>
void dot_super(const PieceRun& b) {
    constexpr bool kShift = super_shift(kKind);
    float* const y_begin = b.y;
    const int64_t ldy = b.ldy, at_scales = b.scales, at_zeros = b.zeros;
    const bool ready = b.sums == SumForm::ready;
    const I less = set_i(-static_cast<int32_t>(b.quant->zero));
    const std::byte* chunk = nullptr;
    F d = zero(), m = zero();
    I sums[R], minima[R];
    walk<kKind, R>(
        b,
        [&](const std::byte* at) __attribute__((always_inline)) {
            chunk = at;
            d = scale_at(at, true, 0);
            if constexpr (kShift) m = scale_at(at, true, 1);
        },
        [&]() __attribute__((always_inline)) {
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) sums[r] = minima[r] = set_i(0);
        },
        [&](const Part& p) __attribute__((always_inline)) {
            I acc[R];
            if (kShift || ready) {
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) acc[r] = set_i(kShift ? 0 : static_cast<int32_t>(p.sums[r]));
            } else {
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) acc[r] = less * set_i(static_cast<int32_t>(p.sums[r]));
            }
            dot_part<kKind>(acc, p.codes, p.words, p.index, p.inputs);
            const std::byte* scales = chunk + at_scales + p.index * kTile;
            const I s = kShift ? load_u8_i(scales) : load_i8_i(scales);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) sums[r] = sums[r] + acc[r] * s;
            if constexpr (kShift) {
                const std::byte* zeros = chunk + at_zeros + p.index * kTile;
                if (!ready) {
                    const I z = load_u8_i(zeros);
#pragma GCC unroll 16
                    for (int r = 0; r < R; r++) minima[r] = minima[r] + z * set_i(static_cast<int32_t>(p.sums[r]));
                } else if (p.index % 2 == 0) {
                    const I z = pair(load_u8_i(zeros), load_u8_i(zeros + kTile));
#pragma GCC unroll 16
                    for (int r = 0; r < R; r++)
                        minima[r] = dot_pairs(minima[r], z, set_i(static_cast<int32_t>(p.sums[r])));
                }
            }
        },
        [&](const uint32_t* scales) __attribute__((always_inline)) {
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                F sum = to_float(sums[r]) * d;
                if constexpr (kShift) sum = sum - to_float(minima[r]) * m;
                float* y = y_begin + r * ldy;
                store(y, fma(sum, set(__builtin_bit_cast(float, scales[r])), load(y)));
            }
        });
}

// The kernels by rows.
struct PieceKernels {
    using Table = PieceKernel[kMaxRows + 1];
    Table u8 = {}, u4 = {}, u5 = {}, iq4 = {};
    Table super_u2 = {}, super_u3 = {}, super_u4 = {}, super_u5 = {}, super_u6 = {}, super_iq4 = {};

    template <int R>
    constexpr void fill() {
        u8[R] = dot_plain<CodeKind::u8, R>;
        u4[R] = dot_plain<CodeKind::u4, R>;
        u5[R] = dot_plain<CodeKind::u5, R>;
        iq4[R] = dot_plain<CodeKind::iq4, R>;
        super_u2[R] = dot_super<CodeKind::u2, R>;
        super_u3[R] = dot_super<CodeKind::u3, R>;
        super_u4[R] = dot_super<CodeKind::u4, R>;
        super_u5[R] = dot_super<CodeKind::u5, R>;
        super_u6[R] = dot_super<CodeKind::u6, R>;
        super_iq4[R] = dot_super<CodeKind::iq4, R>;
        if constexpr (R > 1) fill<R - 1>();
    }
    constexpr PieceKernels() { fill<kMaxRows>(); }
    const Table& of(const Quant& q) const {
        const bool super = q.scales == ScaleKind::super;
        switch (q.codes) {
            case CodeKind::u2:
                return super_u2;
            case CodeKind::u3:
                return super_u3;
            case CodeKind::u4:
                return super ? super_u4 : u4;
            case CodeKind::u5:
                return super ? super_u5 : u5;
            case CodeKind::u6:
                return super_u6;
            case CodeKind::iq4:
                return super ? super_iq4 : iq4;
            case CodeKind::u8:
            case CodeKind::e4m3:  // never: fp8 weights meet floats only
                break;
        }
        return u8;
    }
};
constexpr PieceKernels kPieceKernels;

}  // namespace
}  // namespace penstock

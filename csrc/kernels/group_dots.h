// The inner loops over quantised weights: a panel of rows with groups of codes, or with codes made floats, of a few
// tiles of 16 output columns; found by rows and tiles.
#pragma once
#include "kernels/codes.h"
#include "kernels/table.h"

namespace penstock {
namespace {

// Tiles in flight for so many rows: two kinds of accumulators share the
// registers.
constexpr int quant_tiles_for(int rows) {
    if (kMaxTiles == 1) return 1;
    if (kAccumulators >= 24) return rows <= 6 ? 4 : 3;
    return rows == 1 ? 2 : 1;
}
constexpr int kMostTiles = 4;

// Whole groups of one chunk against one panel.
struct GroupRun {
    const std::byte* codes;  // of the first tile
    int64_t stride;          // to the next tile's
    const float* scales;     // [groups][T][16]
    const float* shifts;     // the same, or null
    int64_t groups, padded, last, step;
    int32_t zero;
    const uint32_t* panel;
    float* y;
    int64_t ldy;
};
using GroupKernel = void (*)(const GroupRun&);

// Four inputs of every row.
template <CodeKind kKind, int kLine, int R, int T>
inline void dot_words(I (&acc)[R][T], const std::byte* w, int64_t stride, const uint32_t* a) {
    Codes line[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; t++) line[t] = codes_of<kKind, kLine>(w + t * stride);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        const Codes x = broadcast_codes(a[r]);
#pragma GCC unroll 16
        for (int t = 0; t < T; t++)
            acc[r][t] = is_small(kKind) ? dot_small(acc[r][t], line[t], x) : dot(acc[r][t], line[t], x);
    }
}

// A panel of quantised inputs: for each step [scale][row], [sum][row], then
// words of four inputs [word][row]. Results stay in memory between steps, so
// that all registers are there for the whole numbers.
template <CodeKind kKind, int R, int T>
void dot_groups(const GroupRun& b) {
    const std::byte* w = b.codes;
    const uint32_t* a = b.panel;
    for (int64_t g = 0; g < b.groups; g++) {
        const float* scales = b.scales + g * T * kTile;
        for (int64_t left = g + 1 < b.groups ? b.padded : b.last; left > 0;) {
            const int64_t n = left < b.step ? left : b.step;
            const uint32_t* head = a;
            a += 2 * R;
            I acc[R][T];
#pragma GCC unroll 16
            for (int r = 0; r < R; r++)
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) acc[r][t] = set_i(-b.zero * static_cast<int32_t>(head[R + r]));
            constexpr int kUnit = unit_inputs(kKind) < 8 ? 8 : unit_inputs(kKind);
            constexpr int kUnitBytes = kUnit / unit_inputs(kKind) * unit_lines(kKind) * kLineBytes;
            for (int64_t i = 0; i < n; i += kUnit, a += kUnit / 4 * R, w += kUnitBytes) {
                dot_words<kKind, 0>(acc, w, b.stride, a);
                dot_words<kKind, 1>(acc, w, b.stride, a + R);
                if constexpr (kUnit > 8) {
                    dot_words<kKind, 2>(acc, w, b.stride, a + 2 * R);
                    dot_words<kKind, 3>(acc, w, b.stride, a + 3 * R);
                }
                if constexpr (kUnit > 16) {
                    dot_words<kKind, 4>(acc, w, b.stride, a + 4 * R);
                    dot_words<kKind, 5>(acc, w, b.stride, a + 5 * R);
                    dot_words<kKind, 6>(acc, w, b.stride, a + 6 * R);
                    dot_words<kKind, 7>(acc, w, b.stride, a + 7 * R);
                }
            }
            left -= n;
#pragma GCC unroll 16
            for (int r = 0; r < R; r++)
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) hold(acc[r][t]);
            if (b.shifts == nullptr) {
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) {
                    const F s = load(scales + t * kTile);
#pragma GCC unroll 16
                    for (int r = 0; r < R; r++) {
                        float* y = b.y + r * b.ldy + t * kTile;
                        store(y, fma(to_float(acc[r][t]), s * set(__builtin_bit_cast(float, head[r])), load(y)));
                    }
                }
                continue;
            }
            F sums[R];
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) sums[r] = set(static_cast<float>(static_cast<int32_t>(head[R + r])));
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) {
                const F s = load(scales + t * kTile), z = load(b.shifts + (g * T + t) * kTile);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) {
                    float* y = b.y + r * b.ldy + t * kTile;
                    const F sum = fma(to_float(acc[r][t]), s, z * sums[r]);
                    store(y, fma(sum, set(__builtin_bit_cast(float, head[r])), load(y)));
                }
            }
        }
    }
}

// n inputs as floats [tile][kFloatInputs][16] against a panel of floats.
struct FloatRun {
    const float* weights;
    int64_t n;
    const uint32_t* panel;
    float* y;
    int64_t ldy;
};
using FloatKernel = void (*)(const FloatRun&);

template <int R, int T>
void dot_floats(const FloatRun& b) {
    const uint32_t* a = b.panel;
    F acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) acc[r][t] = load(b.y + r * b.ldy + t * kTile);
    for (int64_t i = 0; i < b.n; i++, a += R) {
        F w[T];
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) w[t] = load(b.weights + (t * kFloatInputs + i) * kTile);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const F x = set(__builtin_bit_cast(float, a[r]));
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = fma(w[t], x, acc[r][t]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) store(b.y + r * b.ldy + t * kTile, acc[r][t]);
}

// The kernels by rows and tiles.
struct QuantKernels {
    using Groups = GroupKernel[kMaxRows + 1][kMostTiles + 1];
    Groups u8 = {}, u4 = {}, u2 = {}, u5 = {}, u6 = {}, iq4 = {};
    FloatKernel floats[kMaxRows + 1][kMostTiles + 1] = {};

    template <int R, int T>
    constexpr void fill() {
        u8[R][T] = dot_groups<CodeKind::u8, R, T>;
        u4[R][T] = dot_groups<CodeKind::u4, R, T>;
        u2[R][T] = dot_groups<CodeKind::u2, R, T>;
        u5[R][T] = dot_groups<CodeKind::u5, R, T>;
        u6[R][T] = dot_groups<CodeKind::u6, R, T>;
        iq4[R][T] = dot_groups<CodeKind::iq4, R, T>;
        floats[R][T] = dot_floats<R, T>;
    }
    template <int R>
    constexpr void fill_rows() {
        fill<R, quant_tiles_for(R)>();
        if constexpr (quant_tiles_for(R) > 2) fill<R, 2>();
        if constexpr (quant_tiles_for(R) > 1) fill<R, 1>();
        if constexpr (R > 1) fill_rows<R - 1>();
    }
    constexpr QuantKernels() { fill_rows<kMaxRows>(); }
    // Those that read codes as they lie; null where there are none.
    const Groups* of(CodeKind kind) const {
        switch (kind) {
            case CodeKind::u8:
                return &u8;
            case CodeKind::u4:
                return &u4;
            case CodeKind::u2:
                return &u2;
            case CodeKind::u5:
                return &u5;
            case CodeKind::u6:
                return &u6;
            case CodeKind::iq4:
                return &iq4;
            case CodeKind::u3:
            case CodeKind::e4m3:
                break;
        }
        return nullptr;
    }
};
constexpr QuantKernels kQuantKernels;

}  // namespace
}  // namespace penstock

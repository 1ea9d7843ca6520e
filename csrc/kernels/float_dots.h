// The inner loops over weights made floats: a panel of rows with a few tiles of 16 output columns; found by rows and
// tiles.
#pragma once
#include "kernels/codes.h"
#include "kernels/table.h"

namespace penstock {
namespace {

constexpr int kMostTiles = 4;
// Tiles in flight for so many rows: what the registers hold.
constexpr int float_tiles_for(int rows) {
    if (kMaxTiles == 1) return 1;
    if (kAccumulators >= 24) return rows <= 6 ? 4 : 3;
    return rows == 1 ? 2 : 1;
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

struct FloatKernels {
    FloatKernel by[kMaxRows + 1][kMostTiles + 1] = {};

    template <int R>
    constexpr void fill() {
        by[R][float_tiles_for(R)] = dot_floats<R, float_tiles_for(R)>;
        if constexpr (float_tiles_for(R) > 2) by[R][2] = dot_floats<R, 2>;
        if constexpr (float_tiles_for(R) > 1) by[R][1] = dot_floats<R, 1>;
        if constexpr (R > 1) fill<R - 1>();
    }
    constexpr FloatKernels() { fill<kMaxRows>(); }
};
constexpr FloatKernels kFloatKernels;

}  // namespace
}  // namespace penstock

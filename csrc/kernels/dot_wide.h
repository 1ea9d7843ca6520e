// Bytes in groups no shorter than a step, for several rows: a few tiles at once. There is little beside the products,
// so that loading each input once for all tiles shows. The bits are those of dot_pieces.h.
#pragma once
#include "kernels/codes.h"
#include "kernels/table.h"

namespace penstock {
namespace {

constexpr int kWideTiles = 4;
// Tiles at once; 1: dot_pieces.h is faster.
constexpr int wide_tiles(int rows) { return kAccumulators < 24 || rows < 2 ? 1 : rows <= 6 ? 4 : 3; }

// Parts of one chunk, each a step of its own.
struct WideRun {
    const std::byte* codes;  // of the first tile
    int64_t stride;          // to the next tile's
    const float* scales;     // [groups][T][16]
    const float* shifts;     // the same, or null
    bool one_group;
    int64_t parts, part, last;
    int32_t zero;  // what sums still are to be multiplied with; 0: they are ready
    const uint32_t* panel;
    float* y;
    int64_t ldy;
};
using WideKernel = void (*)(const WideRun&);

template <int R, int T>
void dot_wide(const WideRun& b) {
    const std::byte* w = b.codes;
    const uint32_t* a = b.panel;
    for (int64_t p = 0; p < b.parts; p++) {
        const uint32_t* head = a;
        a += 2 * R;
        I acc[R][T];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const int32_t sum = static_cast<int32_t>(head[R + r]);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = set_i(b.shifts != nullptr ? 0 : b.zero == 0 ? sum : -b.zero * sum);
        }
        const int64_t n = p + 1 < b.parts ? b.part : b.last;
        for (int64_t i = 0; i < n; i += 8) {
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++, w += kLineBytes, a += R) {
                Codes line[T];
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) line[t] = load_codes(w + t * b.stride);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) {
                    const Codes x = broadcast_codes(a[r]);
#pragma GCC unroll 16
                    for (int t = 0; t < T; t++) acc[r][t] = dot(acc[r][t], line[t], x);
                }
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) hold(acc[r][t]);
        const int64_t g = b.one_group ? 0 : p;
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) {
            const F s = load(b.scales + (g * T + t) * kTile);
            const F z = b.shifts != nullptr ? load(b.shifts + (g * T + t) * kTile) : zero();
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                F sum = to_float(acc[r][t]) * s;
                if (b.shifts != nullptr) sum = fma(to_float(set_i(static_cast<int32_t>(head[R + r]))), z, sum);
                float* y = b.y + r * b.ldy + t * kTile;
                store(y, fma(sum, set(__builtin_bit_cast(float, head[r])), load(y)));
            }
        }
    }
}

struct WideKernels {
    WideKernel by[kMaxRows + 1][kWideTiles + 1] = {};

    template <int R>
    constexpr void fill() {
        if constexpr (wide_tiles(R) > 3) by[R][4] = dot_wide<R, 4>;
        if constexpr (wide_tiles(R) > 1) by[R][3] = dot_wide<R, 3>, by[R][2] = dot_wide<R, 2>;
        if constexpr (R > 2) fill<R - 1>();
    }
    constexpr WideKernels() { fill<kMaxRows>(); }
};
constexpr WideKernels kWideKernels;

}  // namespace
}  // namespace penstock

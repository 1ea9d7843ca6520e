// Dot products of a panel of rows with tiles of 16 output columns. Each output has one accumulator that takes its k in
// order, so neither the number of rows nor that of tiles shows in the bits; both only set how often a loaded line is
// used.
#pragma once
#include "kernels/bytes.h"
#include "kernels/math.h"
#include "kernels/step.h"
#include "kernels/table.h"

namespace penstock {
namespace {

// Tiles in flight for so many rows: what the registers hold. One row waits for memory, which comes fastest as few
// streams and without prefetching by hand (measured: 1 or 2 streams 36 GB/s, 4 34, 8 30, with prefetches 25 to 32, of
// 36).
constexpr int tiles_for(int rows) {
    const int n = kAccumulators / rows, most = rows == 1 && kMaxTiles > 2 ? 2 : kMaxTiles;
    return n < 1 ? 1 : n > most ? most : n;
}

template <class S, int R, int T>
void tile_block(const TileBlock& b, int tile) {
    const std::byte* w = b.tiles + tile * b.tile_bytes;
    const uint32_t* a = b.panel;
    F acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) acc[r][t] = zero();
    for (int64_t steps = b.k / S::kInputs; steps > 0; steps--, w += S::kBytes, a += S::kWords * R) {
        typename S::Weights line[T];
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) line[t] = S::load(w + t * b.tile_bytes);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const auto x = S::word(a[r]);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = S::template add<0>(acc[r][t], line[t], x);
        }
        if constexpr (S::kWords == 2) {
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                const auto x = S::word(a[R + r]);
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) acc[r][t] = S::template add<1>(acc[r][t], line[t], x);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) store(b.y + r * b.ldy + (tile + t) * kTile, acc[r][t]);
}

template <class S, int R>
void tile_rows(const TileBlock& b) {
    constexpr int kAtOnce = tiles_for(R);
    int tile = 0;
    for (; tile + kAtOnce <= b.count; tile += kAtOnce) tile_block<S, R, kAtOnce>(b, tile);
    if constexpr (kAtOnce > 2)
        for (; tile + 2 <= b.count; tile += 2) tile_block<S, R, 2>(b, tile);
    if constexpr (kAtOnce > 1)
        for (; tile < b.count; tile++) tile_block<S, R, 1>(b, tile);
}

template <Format format, Act act, int R = kMaxRows>
void tile_kernel(const TileBlock& b) {
    if (b.rows == R) return tile_rows<Step<format, act>, R>(b);
    if constexpr (R > 1) tile_kernel<format, act, R - 1>(b);
}

void fill_panel(Act act, const float* x, int64_t k, uint32_t* panel, int rows, int row) {
    panel += row;
    if (act == Act::f32) {
        if (rows == 1)
            std::memcpy(panel, x, static_cast<size_t>(k) * 4);
        else
            for (int64_t i = 0; i < k; i++) std::memcpy(panel + i * rows, x + i, 4);
        if (k % 2) panel[k * rows] = 0;
        return;
    }
    if (act == Act::i8) {  // the scale, -128 times the sum, then four numbers a word
        const float most = largest(x, k), scale = most / 127.0f;
        const F factor = set(most > 0 ? 127.0f / most : 0.0f);
        int32_t sum = 0;
        std::memcpy(panel, &scale, 4);
        for (int64_t i = 0; i < k; i += 16) {
            const int64_t n = k - i < 16 ? k - i : 16;
            int8_t bytes[32] = {};
            round_to_bytes(x + i, n, n, factor, bytes);
            for (int j = 0; j < 16; j++) sum += bytes[j];
            for (int j = 0; j < (n + 3) / 4; j++) std::memcpy(panel + (2 + i / 4 + j) * rows, bytes + 4 * j, 4);
        }
        panel[rows] = static_cast<uint32_t>(-128 * sum);
        return;
    }
    for (int64_t i = 0; i < k; i += 16) {
        const int n = static_cast<int>(k - i < 16 ? k - i : 16);
        uint16_t half[16];
        store_bf16(half, load(x + i, n), 16);
        for (int j = 0; j < (n + 1) / 2; j++) std::memcpy(panel + (i / 2 + j) * rows, half + 2 * j, 4);
    }
}

void finish(const Finish& f) {
    for (int64_t i = 0; i < f.n; i += 16) {
        const int m = static_cast<int>(f.n - i < 16 ? f.n - i : 16);
        const F bias = f.bias != nullptr ? load(f.bias + i, m) : zero();
        for (int64_t row = 0; row < f.rows; row++) {
            F v = load(f.c + row * f.ldc + i, m);
            if (f.bias != nullptr) v = v + bias;
            if (f.residual != nullptr) v = load(f.residual + row * f.ld_residual + i, m) + v;
            store(f.y + row * f.ldy + i, v, m);
        }
    }
}

void finish_gated(Activation kind, const FinishGated& f) {
    for (int64_t i = 0; i < f.n; i += 16) {
        const int m = static_cast<int>(f.n - i < 16 ? f.n - i : 16);
        const F bias_g = f.bias_g != nullptr ? load(f.bias_g + i, m) : zero();
        const F bias_u = f.bias_u != nullptr ? load(f.bias_u + i, m) : zero();
        for (int64_t row = 0; row < f.rows; row++) {
            F g = load(f.g + row * f.ldg + i, m), u = load(f.u + row * f.ldu + i, m);
            if (f.bias_g != nullptr) g = g + bias_g;
            if (f.bias_u != nullptr) u = u + bias_u;
            store(f.y + row * f.ldy + i, activate(kind, g) * u, m);
        }
    }
}

}  // namespace
}  // namespace penstock

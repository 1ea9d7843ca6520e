// The arithmetic of formats/round_math.h, for 16 rows side by side: each lane adds up its own row's inputs in order, so
// the width of a vector does not show in the bits.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "formats/lanes.h"
#include "formats/round_math.h"

namespace penstock {
namespace {

// As many lanes as a register has; a group's 16 rows are taken in turns.
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Words = V;
using Mask = int32_t __attribute__((vector_size(4 * kLanes)));

inline Floats all(float x) { return Floats{} + x; }
inline Floats load(const float* p) {
    Floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float* p, const Floats& v) { std::memcpy(p, &v, sizeof v); }

// Adding it leaves the nearest whole number, ties to even, in the low bits of |x| < 2^22.
constexpr float kRound = 12582912.0f;

// What one instruction does and the compiler does not find: a < b ? a : b; a > b ? a : b; the nearest whole number,
// ties to even, of |x| < 2^22; and a * b + c of whole numbers so small that neither step rounds.
#if defined(__AVX512F__)
inline Floats nearest(const Floats& x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
inline Floats whole_sum(const Floats& a, const Floats& b, const Floats& c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats min(const Floats& a, const Floats& b) { return _mm512_min_ps(a, b); }
inline Floats max(const Floats& a, const Floats& b) { return _mm512_max_ps(a, b); }
#elif defined(__AVX2__)
inline Floats nearest(const Floats& x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Floats whole_sum(const Floats& a, const Floats& b, const Floats& c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats min(const Floats& a, const Floats& b) { return _mm256_min_ps(a, b); }
inline Floats max(const Floats& a, const Floats& b) { return _mm256_max_ps(a, b); }
#else
inline Floats nearest(const Floats& x) { return (x + kRound) - kRound; }
inline Floats whole_sum(const Floats& a, const Floats& b, const Floats& c) { return a * b + c; }
inline Floats min(const Floats& a, const Floats& b) { return a < b ? a : b; }
inline Floats max(const Floats& a, const Floats& b) { return a > b ? a : b; }
#endif
inline Floats floats(const Words& u) { return reinterpret_cast<Floats>(u); }
inline Words bits(const Floats& f) { return reinterpret_cast<Words>(f); }
inline Floats abs(const Floats& a) { return floats(bits(a) & 0x7fffffff); }
inline Floats inverse(const Floats& a) { return a == 0 ? all(0) : 1 / a; }

// The nearest float16, ties to even, as a float.
inline Floats to_half_and_back(const Floats& x) {
    const Words u = bits(x), sign = u & 0x80000000, a = u & 0x7fffffff;
    const Floats small = (floats(a) + 0.5f) - 0.5f;  // multiples of 2^-24
    const Words normal = (a + 0xfff + (a >> 13 & 1)) & ~Words{} << 13;
    const Words big = a > 0x7f800000 ? a : normal >= 0x47800000 ? Words{} + 0x7f800000 : normal;
    return floats((a < 0x38800000 ? bits(small) : big) | sign);
}

// Halves in the low bits, as floats.
inline Floats floats_of_f16(const Words& h) {
    const Words sign = (h & 0x8000) << 16, a = (h & 0x7fff) << 13;
    const Words scaled = bits(floats(a) * 0x1p112f);  // exact, also of subnormals
    const Words special = reinterpret_cast<Words>(a >= 0x0f800000) & 0x7f800000;
    return floats(scaled | special | sign);
}

void load_lanes(Format format, const uint8_t* const* rows, int64_t k, int64_t count, float* w) {
    for (int lane = 0; lane < kTile; lane += kLanes) {
        const Rows from = some_rows(rows, lane);
        float* to = w + lane;
        Words v[4];
        for (int64_t i = 0; i < count; i += format == Format::f32 ? 4 : 8) {
            words<4>(from, (k + i) * (format == Format::f32 ? 4 : 2), v);
            for (int j = 0; j < 4; j++) {
                if (format == Format::f32) {
                    store(to + (i + j) * kTile, floats(v[j]));
                    continue;
                }
                const bool half = format == Format::f16;
                const Floats even = half ? floats_of_f16(v[j] & 0xffff) : floats(v[j] << 16);
                const Floats odd = half ? floats_of_f16(v[j] >> 16) : floats(v[j] & 0xffff0000);
                store(to + (i + 2 * j) * kTile, even);
                store(to + (i + 2 * j + 1) * kTile, odd);
            }
        }
    }
}

// Four codes of 8 bits each in one word a row; f(i) gives the codes of input i with kRound added.
template <class Code>
inline void put_words(int64_t group, uint32_t* words, uint32_t flip, Code code) {
    for (int64_t i = 0; i < group; i += 4, words += kTile) {
        Words w = Words{};
        for (int j = 0; j < 4; j++) w |= (bits(code(i + j)) & 255) << (8 * j);
        w ^= flip;
        std::memcpy(words, &w, sizeof w);
    }
}

void int8_lanes(const float* w, int64_t group, bool half, uint32_t* words, float* scales) {
    Floats most = all(0), bad = all(0);  // infinities and NaN make the scale NaN
    for (int64_t i = 0; i < group; i++) {
        const Floats x = load(w + i * kTile);
        most = max(abs(x), most);
        bad += x * 0;
    }
    Floats scale = most / 127 + bad;
    if (half) scale = to_half_and_back(scale);
    const Floats factor = inverse(scale);
    store(scales, scale);
    put_words(group, words, 0x80808080, [&](int64_t i) __attribute__((always_inline)) {
        return min(max(load(w + i * kTile) * factor, all(-127)), all(127)) + kRound;
    });
}

// The line scale * code + offset through centred inputs, and its squared error less that of a constant.
struct Line {
    Floats scale, offset, error;
};

constexpr int kTries = 2;
constexpr float kWidths[kTries] = {1.0f, 0.85f};

// One fit of each line, side by side: codes from it, then the straight line through them by least squares.
inline void fit(const float* w, int64_t group, const Floats& mean, const Floats& total, Line* lines) {
    Floats factor[kTries], sum[kTries], squares[kTries], together[kTries];
    for (int t = 0; t < kTries; t++) {
        factor[t] = inverse(lines[t].scale);
        sum[t] = squares[t] = together[t] = all(0);
    }
    for (int64_t i = 0; i < group; i++) {
        const Floats c = load(w + i * kTile) - mean;
        for (int t = 0; t < kTries; t++) {
            const Floats q = nearest(min(max((c - lines[t].offset) * factor[t], all(0)), all(15)));
            sum[t] = whole_sum(q, all(1), sum[t]);
            squares[t] = whole_sum(q, q, squares[t]);
            together[t] += q * c;
        }
    }
    for (int t = 0; t < kTries; t++) {
        const Floats middle = sum[t] / static_cast<float>(group);
        together[t] = together[t] - middle * total;
        lines[t].scale = together[t] * inverse(squares[t] - sum[t] * middle);
        lines[t].offset = total / static_cast<float>(group) - lines[t].scale * middle;
        lines[t].error = -lines[t].scale * together[t];
    }
}

void int4_lanes(const float* w, int64_t group, bool half, uint32_t* words, float* scales, float* zeros) {
    Floats sum = all(0), total = all(0);
    for (int64_t i = 0; i < group; i++) sum += load(w + i * kTile);
    const Floats mean = sum / static_cast<float>(group);
    Floats low = load(w) - mean, high = low;
    for (int64_t i = 0; i < group; i++) {
        const Floats c = load(w + i * kTile) - mean;
        total += c;
        low = min(c, low);
        high = max(c, high);
    }
    Line best{all(0), low, all(__builtin_inff())};
    Line first[kTries], second[kTries];
    for (int t = 0; t < kTries; t++) {
        const Floats width = (high - low) * (kWidths[t] / 2);
        first[t] = {(high - low) * (kWidths[t] / 15), (low + high) / 2 - width, all(0)};
    }
    fit(w, group, mean, total, first);
    for (int t = 0; t < kTries; t++) second[t] = first[t];
    fit(w, group, mean, total, second);
    for (int t = 0; t < kTries; t++)
        for (int turn = 0; turn < 2; turn++) {
            const Line& line = turn == 0 ? first[t] : second[t];
            const Mask better = line.error < best.error;
            best.error = better ? line.error : best.error;
            best.scale = better ? line.scale : best.scale;
            best.offset = better ? line.offset : best.offset;
        }
    const Floats offset = mean + best.offset, slope = half ? to_half_and_back(best.scale) : best.scale;
    Floats zero = -offset * inverse(slope);
    const Mask flat = (slope == 0) | (abs(zero) > 2048);  // (0 + 1) * mean
    Floats level = mean;
    if (half) zero = to_half_and_back(zero), level = to_half_and_back(level);
    zero = flat ? all(-1) : zero;
    const Floats scale = flat ? level : slope, factor = flat ? all(0) : inverse(slope), shift = flat ? all(0) : zero;
    store(scales, scale);
    store(zeros, zero);
    put_words(group, words, 0, [&](int64_t i) __attribute__((always_inline)) {
        return min(max(load(w + i * kTile) * factor + shift, all(0)), all(15)) + kRound;
    });
}

void round_int8(const float* w, int64_t group, bool half, RoundedGroup& out) {
    for (int i = 0; i < kTile; i += kLanes) int8_lanes(w + i, group, half, out.words + i, out.scales + i);
}

void round_int4(const float* w, int64_t group, bool half, RoundedGroup& out) {
    for (int i = 0; i < kTile; i += kLanes)
        int4_lanes(w + i, group, half, out.words + i, out.scales + i, out.zeros + i);
}

}  // namespace
}  // namespace penstock

#define PENSTOCK_ROUND_MATH {load_lanes, round_int8, round_int4}

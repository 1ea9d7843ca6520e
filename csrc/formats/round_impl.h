// The arithmetic of formats/round_math.h, for 16 rows side by side: each lane adds up its own row's inputs in order, so
// the width of a vector does not show in the bits.
#pragma once
#include "formats/lanes.h"
#include "formats/round_math.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors of 64 bytes pass between inlined functions of one file only

namespace penstock {
namespace {

// As many lanes as a register has; a group's 16 rows are taken in turns.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Words = uint32_t __attribute__((vector_size(4 * kLanes)));
using Mask = int32_t __attribute__((vector_size(4 * kLanes)));

inline Floats all(float x) { return Floats{} + x; }
inline Floats load(const float* p) {
    Floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float* p, const Floats& v) { std::memcpy(p, &v, sizeof v); }
inline Floats min(const Floats& a, const Floats& b) { return a < b ? a : b; }
inline Floats max(const Floats& a, const Floats& b) { return a > b ? a : b; }
inline Floats floats(const Words& u) { return reinterpret_cast<Floats>(u); }
inline Words bits(const Floats& f) { return reinterpret_cast<Words>(f); }
inline Floats abs(const Floats& a) { return floats(bits(a) & 0x7fffffff); }
inline Floats inverse(const Floats& a) { return a == 0 ? all(0) : 1 / a; }

// Adding it leaves the nearest whole number, ties to even, in the low bits of |x| < 2^22.
constexpr float kRound = 12582912.0f;

// The nearest float16, ties to even, as a float.
inline Floats to_half_and_back(const Floats& x) {
    const Words u = bits(x), sign = u & 0x80000000, a = u & 0x7fffffff;
    const Floats small = (floats(a) + 0.5f) - 0.5f;  // multiples of 2^-24
    const Words normal = (a + 0xfff + (a >> 13 & 1)) & ~Words{} << 13;
    const Words big = a > 0x7f800000 ? a : normal >= 0x47800000 ? Words{} + 0x7f800000 : normal;
    return floats((a < 0x38800000 ? bits(small) : big) | sign);
}

// Four rows' words, of two halves each, to floats of the even input and of the odd one.
inline void floats_of_f16(const V4& pairs, float* even, float* odd) {
    using F4 = float __attribute__((vector_size(16)));
    for (int i = 0; i < 2; i++) {
        const V4 h = i == 0 ? pairs & 0xffff : pairs >> 16;
        const V4 sign = (h & 0x8000) << 16, a = (h & 0x7fff) << 13;
        const F4 scaled = reinterpret_cast<F4>(a) * 0x1p112f;  // exact, also of subnormals
        const V4 special = reinterpret_cast<V4>(a >= 0x0f800000) & 0x7f800000;
        const V4 out = reinterpret_cast<V4>(scaled) | special | sign;
        std::memcpy(i == 0 ? even : odd, &out, 16);
    }
}

void load_lanes(Format format, const uint8_t* const* rows, int64_t k, int64_t count, float* w) {
    for (int quad = 0; quad < kQuads; quad++) {
        const Rows4 from{{rows[4 * quad], rows[4 * quad + 1], rows[4 * quad + 2], rows[4 * quad + 3]}};
        float* to = w + 4 * quad;
        V4 v[4];
        for (int64_t i = 0; i < count; i += 8) {
            if (format == Format::f32) {
                for (int half = 0; half < 2; half++) {
                    words<4>(from, (k + i + 4 * half) * 4, v);
                    for (int j = 0; j < 4; j++) std::memcpy(to + (i + 4 * half + j) * kTile, &v[j], 16);
                }
                continue;
            }
            words<4>(from, (k + i) * 2, v);
            for (int j = 0; j < 4; j++) {
                float *even = to + (i + 2 * j) * kTile, *odd = even + kTile;
                if (format == Format::f16) {
                    floats_of_f16(v[j], even, odd);
                } else {
                    const V4 low = v[j] << 16, high = v[j] & 0xffff0000;
                    std::memcpy(even, &low, 16);
                    std::memcpy(odd, &high, 16);
                }
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

// One fit: codes from a line, then the straight line through them by least squares.
inline Line fitted(const float* w, int64_t group, const Floats& mean, const Floats& total, const Line& from) {
    const Floats factor = inverse(from.scale);
    Floats sum = all(0), squares = all(0), together = all(0);
    for (int64_t i = 0; i < group; i++) {
        const Floats c = load(w + i * kTile) - mean;
        const Floats q = (min(max((c - from.offset) * factor, all(0)), all(15)) + kRound) - kRound;
        sum += q;
        squares += q * q;
        together += q * c;
    }
    const Floats middle = sum / static_cast<float>(group);
    together = together - middle * total;
    Line line;
    line.scale = together * inverse(squares - sum * middle);
    line.offset = total / static_cast<float>(group) - line.scale * middle;
    line.error = -line.scale * together;
    return line;
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
    for (const float width : {1.0f, 0.85f}) {
        Line line{(high - low) * (width / 15), (low + high) / 2 - (high - low) * (width / 2), all(0)};
        for (int fit = 0; fit < 2; fit++) {
            line = fitted(w, group, mean, total, line);
            const Mask better = line.error < best.error;
            best.error = better ? line.error : best.error;
            best.scale = better ? line.scale : best.scale;
            best.offset = better ? line.offset : best.offset;
        }
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

// Sixteen float lanes as a plain array: the reference of what every instruction set computes, and the form that runs
// anywhere. Included by one source file per instruction set, hence the unnamed namespace:
// code compiled with different machine flags must never share a symbol.
//
//   F                16 floats                    Mask   16 truths
//   Pairs            two F: the even and odd numbers of 16 bf16 pairs, widened
//   Line             16 bf16 pairs as they lie in a packed weight; dot(acc, w, a) adds both products to each lane
#pragma once
#include <cstdint>
#include <cstring>

namespace penstock {
namespace {

constexpr const char* kIsaName = "generic";
constexpr int kMaxRows = 4;       // rows of a panel, at most
constexpr int kAccumulators = 4;  // F values that a kernel may keep in registers
constexpr int kMaxTiles = 1;

struct F {
    float v[16];
};
struct Mask {
    bool v[16];
};
struct Pairs {
    F even, odd;
};
using Line = Pairs;

#define PENSTOCK_LANES(expression)                    \
    F r;                                              \
    for (int i = 0; i < 16; i++) r.v[i] = expression; \
    return r

inline F set(float x) { PENSTOCK_LANES(x); }
inline F zero() { return set(0); }
inline F load(const float* p) { PENSTOCK_LANES(p[i]); }
inline F load(const float* p, int n) { PENSTOCK_LANES(i < n ? p[i] : 0.0f); }
inline void store(float* p, F a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store(float* p, F a, int n) { std::memcpy(p, a.v, static_cast<size_t>(n) * 4); }
inline F operator+(F a, F b) { PENSTOCK_LANES(a.v[i] + b.v[i]); }
inline F operator-(F a, F b) { PENSTOCK_LANES(a.v[i] - b.v[i]); }
inline F operator*(F a, F b) { PENSTOCK_LANES(a.v[i] * b.v[i]); }
inline F operator/(F a, F b) { PENSTOCK_LANES(a.v[i] / b.v[i]); }
inline F fma(F a, F b, F c) { PENSTOCK_LANES(a.v[i] * b.v[i] + c.v[i]); }
// Where either is NaN the result is the second.
inline F max(F a, F b) { PENSTOCK_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
inline F min(F a, F b) { PENSTOCK_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
inline F abs(F a) { PENSTOCK_LANES(__builtin_fabsf(a.v[i])); }
inline F copysign(F a, F sign) { PENSTOCK_LANES(__builtin_copysignf(a.v[i], sign.v[i])); }
// To the nearest integer, ties to even; |a| < 2^22.
inline F round(F a) { PENSTOCK_LANES((a.v[i] + 12582912.0f) - 12582912.0f); }

inline float from_bits(uint32_t u) {
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
inline uint32_t to_bits(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    return u;
}
// 2^n of integers -126 <= n <= 127.
inline F pow2(F n) { PENSTOCK_LANES(from_bits(static_cast<uint32_t>(static_cast<int>(n.v[i]) + 127) << 23)); }
// a * 2^n of integers -252 <= n <= 252.
inline F scale2(F a, F n) {
    const F half = round(n * set(0.5f));
    return a * pow2(half) * pow2(n - half);
}

inline float sum(F a) {
    for (int w = 8; w > 0; w /= 2)
        for (int i = 0; i < w; i++) a.v[i] += a.v[i + w];
    return a.v[0];
}
inline float max_of(F a) {
    for (int w = 8; w > 0; w /= 2)
        for (int i = 0; i < w; i++) a.v[i] = a.v[i] > a.v[i + w] ? a.v[i] : a.v[i + w];
    return a.v[0];
}
inline Mask less(F a, F b) {
    Mask m;
    for (int i = 0; i < 16; i++) m.v[i] = a.v[i] < b.v[i];
    return m;
}
// Lanes lo <= i < hi.
inline Mask lanes(int lo, int hi) {
    Mask m;
    for (int i = 0; i < 16; i++) m.v[i] = lo <= i && i < hi;
    return m;
}
inline bool any(Mask m) {
    for (bool x : m.v)
        if (x) return true;
    return false;
}
inline F select(Mask m, F yes, F no) { PENSTOCK_LANES(m.v[i] ? yes.v[i] : no.v[i]); }

inline float widen_f16(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, bits = h & 0x7fff;
    if (bits >= 0x7c00) return from_bits(sign | 0x7f800000 | (bits & 0x3ff) << 13 | (bits > 0x7c00 ? 0x400000 : 0));
    if (bits >= 0x400) return from_bits(sign | ((bits << 13) + (112u << 23)));
    const float tiny = static_cast<float>(bits) * 5.9604644775390625e-8f;  // subnormal: bits * 2^-24
    return from_bits(sign | to_bits(tiny));
}
inline uint16_t narrow_f16(float f) {
    const uint32_t u = to_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // 65536 and up
    // Below 2^-14 adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    if (a < 0x38800000) return static_cast<uint16_t>(sign | (to_bits(from_bits(a) + 0.5f) - 0x3f000000));
    return static_cast<uint16_t>(sign | ((a - (112u << 23) + 0xfff + (a >> 13 & 1)) >> 13));
}
inline uint16_t narrow_bf16(float f) {
    const uint32_t u = to_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(u >> 16 | 0x40);
    return static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline F load_f16(const uint16_t* p) { PENSTOCK_LANES(widen_f16(p[i])); }
inline F load_f16(const uint16_t* p, int n) { PENSTOCK_LANES(i < n ? widen_f16(p[i]) : 0.0f); }
inline void store_f16(uint16_t* p, F a, int n) {
    for (int i = 0; i < n; i++) p[i] = narrow_f16(a.v[i]);
}
inline void store_bf16(uint16_t* p, F a, int n) {
    for (int i = 0; i < n; i++) p[i] = narrow_bf16(a.v[i]);
}

inline F low_halves(const uint32_t* p, int n) { PENSTOCK_LANES(i < n ? from_bits(p[i] << 16) : 0.0f); }
inline F high_halves(const uint32_t* p, int n) { PENSTOCK_LANES(i < n ? from_bits(p[i] & 0xffff0000u) : 0.0f); }
inline Pairs load_pairs(const uint32_t* p, int n) { return {low_halves(p, n), high_halves(p, n)}; }
inline Pairs load_pairs(const uint32_t* p) { return load_pairs(p, 16); }
inline Pairs broadcast_pairs(uint32_t p) { return {set(from_bits(p << 16)), set(from_bits(p & 0xffff0000u))}; }

inline Line load_line(const uint32_t* p) { return load_pairs(p); }
inline Line load_line(const uint32_t* p, int n) { return load_pairs(p, n); }
// Stores 32 numbers as bf16 pairs, a's before b's; gives them back as they were rounded.
inline Line store_line(uint32_t* p, const F& a, const F& b) {
    uint16_t half[32];
    store_bf16(half, a, 16);
    store_bf16(half + 16, b, 16);
    std::memcpy(p, half, 64);
    return load_line(p);
}
inline Line even_only(const Line& a) { return {a.even, zero()}; }
inline Line odd_only(const Line& a) { return {zero(), a.odd}; }
inline Line broadcast_line(uint32_t p) { return broadcast_pairs(p); }
inline F dot(F acc, const Line& w, const Line& a) { return fma(w.odd, a.odd, fma(w.even, a.even, acc)); }
// The same with one word for all lanes.
inline F add_word(F acc, const Line& w, const uint32_t* word) { return dot(acc, w, broadcast_line(*word)); }
inline F add_word(F acc, const F& w, const uint32_t* word) { return fma(set(from_bits(*word)), w, acc); }

// Into the second-level cache, where there is such an instruction.
inline __attribute__((always_inline)) void prefetch_near(const void* p) { __builtin_prefetch(p, 0, 3); }
inline __attribute__((always_inline)) void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

#undef PENSTOCK_LANES

}  // namespace
}  // namespace penstock

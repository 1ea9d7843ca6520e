// Sixteen lanes of whole numbers as plain arrays: the reference of what every
// instruction set computes.
//
//   I       16 int32                          Codes   16 lanes of four bytes,
//   as a line of a quantised weight dot(acc, w, x) adds to each lane the four
//   products of its bytes, w unsigned and x signed
#pragma once
#include "vec/generic.h"

namespace penstock {
namespace {

struct I {
    int32_t v[16];
};
struct Codes {
    uint8_t v[64];
};

inline I set_i(int32_t x) {
    I r;
    for (int i = 0; i < 16; i++) r.v[i] = x;
    return r;
}
inline I operator+(I a, I b) {
    for (int i = 0; i < 16; i++) a.v[i] += b.v[i];
    return a;
}
inline I operator*(I a, I b) {
    for (int i = 0; i < 16; i++) a.v[i] *= b.v[i];
    return a;
}
// Numbers from 0 to 32767 side by side in each lane; and of two such lanes of 16-bit numbers the products, added up.
inline I pair(I low, I high) {
    for (int i = 0; i < 16; i++) low.v[i] |= static_cast<int32_t>(static_cast<uint32_t>(high.v[i]) << 16);
    return low;
}
inline I dot_pairs(I acc, I a, I b) {
    for (int i = 0; i < 16; i++)
        acc.v[i] += static_cast<int16_t>(a.v[i] & 0xffff) * static_cast<int16_t>(b.v[i] & 0xffff) +
                    (a.v[i] >> 16) * (b.v[i] >> 16);
    return acc;
}
inline F to_float(I a) {
    F r;
    for (int i = 0; i < 16; i++) r.v[i] = static_cast<float>(a.v[i]);
    return r;
}

inline Codes load_codes(const void* p) {
    Codes r;
    std::memcpy(r.v, p, 64);
    return r;
}
inline void store_codes(void* p, Codes a) { std::memcpy(p, a.v, 64); }
inline Codes broadcast_codes(uint32_t x) {
    Codes r;
    for (int i = 0; i < 16; i++) std::memcpy(r.v + 4 * i, &x, 4);
    return r;
}
// The bits [Shift, Shift + Count) of every byte.
template <int Shift, int Count>
inline Codes bits(Codes a) {
    for (uint8_t& x : a.v) x = static_cast<uint8_t>(x >> Shift & ((1 << Count) - 1));
    return a;
}
// The same bits, moved to begin at bit To.
template <int Shift, int Count, int To>
inline Codes moved(Codes a) {
    a = bits<Shift, Count>(a);
    for (uint8_t& x : a.v) x = static_cast<uint8_t>(x << To);
    return a;
}
inline Codes join(Codes a, Codes b) {
    for (int i = 0; i < 64; i++) a.v[i] |= b.v[i];
    return a;
}
// table[a] for a below 16.
inline Codes lookup(const uint8_t* table, Codes a) {
    for (uint8_t& x : a.v) x = table[x];
    return a;
}
inline I dot(I acc, Codes w, Codes x) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) acc.v[i] += w.v[4 * i + j] * static_cast<int8_t>(x.v[4 * i + j]);
    return acc;
}
// The same where no byte of w is above 127.
inline I dot_small(I acc, Codes w, Codes x) { return dot(acc, w, x); }
// With the word at x, in all lanes.
inline I dot_word(I acc, Codes w, const uint32_t* x) { return dot(acc, w, broadcast_codes(*x)); }
inline I dot_small_word(I acc, Codes w, const uint32_t* x) { return dot_small(acc, w, broadcast_codes(*x)); }

// In a register, here and now, where there is one so wide: the compiler shall
// not keep copies in memory.
inline void hold(I&) {}

// Byte J of every lane.
template <int J>
inline F byte(Codes a) {
    F r;
    for (int i = 0; i < 16; i++) r.v[i] = a.v[4 * i + J];
    return r;
}
// Byte J of every lane as float8 e4m3 (no NaN), times 2^-8.
template <int J>
inline F e4m3(Codes a) {
    F r;
    for (int i = 0; i < 16; i++) {
        const uint8_t x = a.v[4 * i + J];
        r.v[i] = widen_f16(static_cast<uint16_t>((x & 0x80) << 8 | (x & 0x7f) << 7));
    }
    return r;
}
inline I load_u8_i(const void* p) {
    I r;
    for (int i = 0; i < 16; i++) r.v[i] = static_cast<const uint8_t*>(p)[i];
    return r;
}
inline I load_i8_i(const void* p) {
    I r;
    for (int i = 0; i < 16; i++) r.v[i] = static_cast<const int8_t*>(p)[i];
    return r;
}
inline F load_u8(const uint8_t* p) { return to_float(load_u8_i(p)); }
inline F load_i8(const int8_t* p) { return to_float(load_i8_i(p)); }
// Of each lane the number of larger magnitude, its sign dropped; infinities and NaN are larger than all others.
inline F larger_size(F a, F most) {
    F r;
    for (int i = 0; i < 16; i++) {
        const uint32_t x = __builtin_bit_cast(uint32_t, a.v[i]) & 0x7fffffff;
        r.v[i] = x > __builtin_bit_cast(uint32_t, most.v[i]) ? from_bits(x) : most.v[i];
    }
    return r;
}
inline float largest_size(F a) {
    F r = a;
    for (int i = 8; i > 0; i /= 2)
        for (int j = 0; j < i; j++)
            if (__builtin_bit_cast(uint32_t, r.v[j + i]) > __builtin_bit_cast(uint32_t, r.v[j])) r.v[j] = r.v[j + i];
    return r.v[0];
}
inline void store_i(int32_t* p, I a) { std::memcpy(p, a.v, sizeof a.v); }
// The nearest whole numbers, ties to even, of numbers from -128 to 127; of others, some byte.
inline void store_i8(int8_t* p, F a) {
    const F whole = round(a);
    for (int i = 0; i < 16; i++)
        p[i] = whole.v[i] >= -128 && whole.v[i] <= 127 ? static_cast<int8_t>(static_cast<int>(whole.v[i])) : int8_t{0};
}

}  // namespace
}  // namespace penstock

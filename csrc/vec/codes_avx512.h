// Sixteen lanes of whole numbers as one AVX-512 register; the meaning of each
// function is in vec/codes_generic.h.
#pragma once
#include "vec/avx512.h"

namespace penstock {
namespace {

struct I {
    __m512i v;
};
using Codes = I;

inline I set_i(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I operator*(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
// Numbers of 16 bits side by side, and the sum of the products of such pairs.
inline I pair(I low, I high) { return {_mm512_or_si512(low.v, _mm512_slli_epi32(high.v, 16))}; }
inline I dot_pairs(I acc, I a, I b) { return {_mm512_dpwssd_epi32(acc.v, a.v, b.v)}; }
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }

inline Codes load_codes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_codes(void* p, Codes a) { _mm512_storeu_si512(p, a.v); }
inline Codes broadcast_codes(uint32_t x) { return set_i(static_cast<int32_t>(x)); }
template <int Shift, int Count>
inline Codes bits(Codes a) {
    const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << Count) - 1));
    return {_mm512_and_si512(Shift == 0 ? a.v : _mm512_srli_epi16(a.v, Shift), mask)};
}
template <int Shift, int Count, int To>
inline Codes moved(Codes a) {
    const __m512i there = Shift > To   ? _mm512_srli_epi16(a.v, Shift - To)
                          : Shift < To ? _mm512_slli_epi16(a.v, To - Shift)
                                       : a.v;
    return {_mm512_and_si512(there, _mm512_set1_epi8(static_cast<char>(((1 << Count) - 1) << To)))};
}
inline Codes join(Codes a, Codes b) { return {_mm512_or_si512(a.v, b.v)}; }
inline Codes lookup(const uint8_t* table, Codes a) {
    const __m512i t = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm512_shuffle_epi8(t, a.v)};
}
inline I dot(I acc, Codes w, Codes x) { return {_mm512_dpbusd_epi32(acc.v, w.v, x.v)}; }
inline I dot_small(I acc, Codes w, Codes x) { return dot(acc, w, x); }
// With the word at x, which the product itself spreads over the lanes (GCC 12 would do it apart).
inline I dot_word(I acc, Codes w, const uint32_t* x) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(w.v), "m"(*x));
    return acc;
}
inline I dot_small_word(I acc, Codes w, const uint32_t* x) { return dot_word(acc, w, x); }

// In a register, here and now: the compiler shall not keep copies in memory.
inline void hold(I& a) { asm("" : "+v"(a.v)); }

template <int J>
inline F byte(Codes a) {
    const __m512i mask = _mm512_set1_epi32(255);
    const __m512i x = J == 0 ? a.v : _mm512_srli_epi32(a.v, 8 * J);
    return {_mm512_cvtepi32_ps(J == 3 ? x : _mm512_and_si512(x, mask))};
}
// As float16 the seven low bits lie one place higher, under the sign.
template <int J>
inline F e4m3(Codes a) {
    const __m512i high = _mm512_srai_epi32(J == 3 ? a.v : _mm512_slli_epi32(a.v, 24 - 8 * J), 17);
    const __m512i half = _mm512_and_si512(high, _mm512_set1_epi32(0xbf80));
    return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(half))};
}
inline I load_u8_i(const void* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))}; }
inline I load_i8_i(const void* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))}; }
inline F load_u8(const uint8_t* p) { return to_float(load_u8_i(p)); }
inline F load_i8(const int8_t* p) { return to_float(load_i8_i(p)); }
inline F larger_size(F a, F most) {
    return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(abs(a).v), _mm512_castps_si512(most.v)))};
}
inline float largest_size(F a) { return __builtin_bit_cast(float, _mm512_reduce_max_epi32(_mm512_castps_si512(a.v))); }
inline void store_i(int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }
inline void store_i8(int8_t* p, F a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

}  // namespace
}  // namespace penstock

// Sixteen lanes of whole numbers as two AVX registers; the meaning of each
// function is in vec/codes_generic.h.
#pragma once
#include "vec/avx2.h"

namespace penstock {
namespace {

struct I {
    __m256i a, b;
};
using Codes = I;

inline I set_i(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I operator+(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I operator*(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
inline I pair(I low, I high) {
    return {_mm256_or_si256(low.a, _mm256_slli_epi32(high.a, 16)),
            _mm256_or_si256(low.b, _mm256_slli_epi32(high.b, 16))};
}
inline I dot_pairs(I acc, I x, I y) { return acc + I{_mm256_madd_epi16(x.a, y.a), _mm256_madd_epi16(x.b, y.b)}; }
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

inline Codes load_codes(const void* p) {
    const __m256i* q = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline void store_codes(void* p, Codes x) {
    __m256i* q = static_cast<__m256i*>(p);
    _mm256_storeu_si256(q, x.a);
    _mm256_storeu_si256(q + 1, x.b);
}
inline Codes broadcast_codes(uint32_t x) { return set_i(static_cast<int32_t>(x)); }
template <int Shift, int Count>
inline Codes bits(Codes x) {
    const __m256i mask = _mm256_set1_epi8(static_cast<char>((1 << Count) - 1));
    return {_mm256_and_si256(_mm256_srli_epi16(x.a, Shift), mask),
            _mm256_and_si256(_mm256_srli_epi16(x.b, Shift), mask)};
}
template <int Shift, int Count, int To>
inline __m256i moved(__m256i x) {
    const __m256i there = Shift > To ? _mm256_srli_epi16(x, Shift - To) : _mm256_slli_epi16(x, To - Shift);
    return _mm256_and_si256(there, _mm256_set1_epi8(static_cast<char>(((1 << Count) - 1) << To)));
}
template <int Shift, int Count, int To>
inline Codes moved(Codes x) {
    return {moved<Shift, Count, To>(x.a), moved<Shift, Count, To>(x.b)};
}
inline Codes join(Codes x, Codes y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
inline Codes lookup(const uint8_t* table, Codes x) {
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(t, x.a), _mm256_shuffle_epi8(t, x.b)};
}
// Even and odd bytes apart, as 16-bit numbers: their products in pairs never
// overflow.
inline __m256i dot(__m256i acc, __m256i w, __m256i x) {
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, low), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
inline I dot(I acc, Codes w, Codes x) { return {dot(acc.a, w.a, x.a), dot(acc.b, w.b, x.b)}; }
// 2 * 127 * 128 fits into 16 bits.
inline __m256i dot_small(__m256i acc, __m256i w, __m256i x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
inline I dot_small(I acc, Codes w, Codes x) { return {dot_small(acc.a, w.a, x.a), dot_small(acc.b, w.b, x.b)}; }
// With the word at x, in all lanes.
inline I dot_word(I acc, Codes w, const uint32_t* x) { return dot(acc, w, broadcast_codes(*x)); }
inline I dot_small_word(I acc, Codes w, const uint32_t* x) { return dot_small(acc, w, broadcast_codes(*x)); }

inline void hold(I& x) { asm("" : "+x"(x.a), "+x"(x.b)); }

template <int J>
inline F byte(Codes x) {
    const __m256i mask = _mm256_set1_epi32(255);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.a, 8 * J), mask)),
            _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.b, 8 * J), mask))};
}
// As float16 the seven low bits lie one place higher, under the sign.
template <int J>
inline __m256 e4m3(__m256i x) {
    const __m256i high = _mm256_srai_epi32(_mm256_slli_epi32(x, 24 - 8 * J), 17);
    const __m256i half = _mm256_and_si256(high, _mm256_set1_epi32(0xbf80));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0xd8);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}
template <int J>
inline F e4m3(Codes x) {
    return {e4m3<J>(x.a), e4m3<J>(x.b)};
}
inline I load_u8_i(const void* p) {
    const __m128i x = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
inline I load_i8_i(const void* p) {
    const __m128i x = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))};
}
inline F load_u8(const uint8_t* p) { return to_float(load_u8_i(p)); }
inline F load_i8(const int8_t* p) { return to_float(load_i8_i(p)); }
inline __m256 larger_bits(__m256 a, __m256 b) {
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
inline F larger_size(F x, F most) {
    const F size = abs(x);
    return {larger_bits(size.a, most.a), larger_bits(size.b, most.b)};
}
inline float largest_size(F x) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_castps_si256(larger_bits(x.a, x.b)));
    int32_t most = 0;
    for (const int32_t lane : lanes) most = lane > most ? lane : most;
    return __builtin_bit_cast(float, most);
}
inline void store_i(int32_t* p, I x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
inline void store_i8(int8_t* p, F x) {
    const __m256i half = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    const __m256i order = _mm256_permute4x64_epi64(half, 0xd8);
    const __m128i all = _mm_packs_epi16(_mm256_castsi256_si128(order), _mm256_extracti128_si256(order, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), all);
}

}  // namespace
}  // namespace penstock

// Sixteen float lanes as one AVX-512 register; the meaning of each function is in vec/generic.h.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace penstock {
namespace {

constexpr const char* kIsaName = "avx512";
constexpr int kMaxRows = 8;
constexpr int kAccumulators = 24;
constexpr int kMaxTiles = 4;

struct F {
    __m512 v;
};
using Mask = __mmask16;
struct Pairs {
    F even, odd;
};
struct Line {
    __m512bh v;
};

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }

inline F set(float x) { return {_mm512_set1_ps(x)}; }
inline F zero() { return {_mm512_setzero_ps()}; }
inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F load(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline void store(float* p, F a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F abs(F a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
inline F copysign(F a, F sign) {
    const __m512 bit = _mm512_set1_ps(-0.0f);
    return {_mm512_or_ps(_mm512_andnot_ps(bit, a.v), _mm512_and_ps(bit, sign.v))};
}
inline F round(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F pow2(F n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
inline F scale2(F a, F n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline float sum(F a) { return _mm512_reduce_add_ps(a.v); }
inline float max_of(F a) { return _mm512_reduce_max_ps(a.v); }
inline Mask less(F a, F b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline Mask lanes(int lo, int hi) { return static_cast<Mask>(first_lanes(hi) & ~first_lanes(lo)); }
inline bool any(Mask m) { return m != 0; }
inline F select(Mask m, F yes, F no) { return {_mm512_mask_blend_ps(m, no.v, yes.v)}; }

inline F load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline F load_f16(const uint16_t* p, int n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p))}; }
inline void store_f16(uint16_t* p, F a, int n) {
    _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void store_bf16(uint16_t* p, F a, int n) {
    _mm256_mask_storeu_epi16(p, first_lanes(n), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v)));
}

inline Pairs widen_pairs(__m512i p) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {{_mm512_castsi512_ps(_mm512_slli_epi32(p, 16))}, {_mm512_castsi512_ps(_mm512_and_si512(p, high))}};
}
inline Pairs load_pairs(const uint32_t* p) { return widen_pairs(_mm512_loadu_si512(p)); }
inline Pairs load_pairs(const uint32_t* p, int n) { return widen_pairs(_mm512_maskz_loadu_epi32(first_lanes(n), p)); }

inline Line load_line(const uint32_t* p) { return {reinterpret_cast<__m512bh>(_mm512_loadu_si512(p))}; }
inline Line load_line(const uint32_t* p, int n) {
    return {reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi32(first_lanes(n), p))};
}
inline Line store_line(uint32_t* p, F a, F b) {
    const __m512bh both = _mm512_cvtne2ps_pbh(b.v, a.v);
    _mm512_storeu_si512(p, reinterpret_cast<__m512i>(both));
    return {both};
}
inline Line even_only(Line a) {
    return {reinterpret_cast<__m512bh>(_mm512_maskz_mov_epi16(0x55555555u, reinterpret_cast<__m512i>(a.v)))};
}
inline Line odd_only(Line a) {
    return {reinterpret_cast<__m512bh>(_mm512_maskz_mov_epi16(0xaaaaaaaau, reinterpret_cast<__m512i>(a.v)))};
}
inline Line broadcast_line(uint32_t p) { return {reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(p)))}; }
inline F dot(F acc, Line w, Line a) { return {_mm512_dpbf16_ps(acc.v, w.v, a.v)}; }
// The word is an operand in memory: it takes no register and no instruction of its own, so that more lines are on their
// way from memory at once. (GCC would load a word that several lines meet.)
inline F add_word(F acc, Line w, const uint32_t* word) {
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(w.v), "m"(*word));
    return acc;
}
inline F add_word(F acc, F w, const uint32_t* word) {
    asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(w.v), "m"(*word));
    return acc;
}

inline Pairs broadcast_pairs(uint32_t p) { return widen_pairs(_mm512_set1_epi32(static_cast<int>(p))); }

// Into the first cache, and into the second-level one.
// (GCC 12 drops the builtin: a function of nothing else has no effect in its eyes.)
inline void prefetch_near(const void* p) { asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p))); }
inline void prefetch(const void* p) { asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p))); }

}  // namespace
}  // namespace penstock

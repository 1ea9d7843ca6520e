// Sixteen float lanes as two AVX registers; the meaning of each function is in vec/generic.h.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace penstock {
namespace {

constexpr const char* kIsaName = "avx2";
constexpr int kMaxRows = 6;
constexpr int kAccumulators = 6;
constexpr int kMaxTiles = 4;

struct F {
    __m256 a, b;
};
struct Mask {
    __m256 a, b;
};
struct Pairs {
    F even, odd;
};
using Line = Pairs;

inline __m256i first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline F load(const float* p, int n) {
    return {_mm256_maskload_ps(p, first_lanes(n)),
            n > 8 ? _mm256_maskload_ps(p + 8, first_lanes(n - 8)) : _mm256_setzero_ps()};
}
inline void store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline void store(float* p, F x, int n) {
    _mm256_maskstore_ps(p, first_lanes(n), x.a);
    if (n > 8) _mm256_maskstore_ps(p + 8, first_lanes(n - 8), x.b);
}
inline F operator+(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F operator-(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F operator*(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F operator/(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F abs(F x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline F copysign(F x, F y) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(_mm256_andnot_ps(sign, x.a), _mm256_and_ps(sign, y.a)),
            _mm256_or_ps(_mm256_andnot_ps(sign, x.b), _mm256_and_ps(sign, y.b))};
}
inline F round(F x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
}
inline __m256 pow2(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline F pow2(F n) { return {pow2(n.a), pow2(n.b)}; }
inline F scale2(F x, F n) {
    const F half = round(n * set(0.5f));
    return x * pow2(half) * pow2(n - half);
}

inline float sum(F x) {
    const __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
inline float max_of(F x) {
    const __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
inline Mask less(F x, F y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)}; }
inline Mask lanes(int lo, int hi) {
    const __m256i a = _mm256_andnot_si256(first_lanes(lo), first_lanes(hi));
    const __m256i b = _mm256_andnot_si256(first_lanes(lo - 8), first_lanes(hi - 8));
    return {_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)};
}
inline bool any(Mask m) { return (_mm256_movemask_ps(m.a) | _mm256_movemask_ps(m.b)) != 0; }
inline F select(Mask m, F yes, F no) {
    return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}

inline F load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline F load_f16(const uint16_t* p, int n) {
    uint16_t all[16] = {};
    std::memcpy(all, p, static_cast<size_t>(n) * 2);
    return load_f16(all);
}
inline void store_f16(uint16_t* p, F x, int n) {
    uint16_t all[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(all), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(all + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
    std::memcpy(p, all, static_cast<size_t>(n) * 2);
}
// Each lane rounded to bf16 (ties to even, NaN stays quiet NaN), in the low half.
inline __m256i narrow_bf16(__m256 x) {
    const __m256i u = _mm256_castps_si256(x), high = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
}
inline void store_bf16(uint16_t* p, F x, int n) {
    uint16_t all[16];
    const __m256i packed = _mm256_packus_epi32(narrow_bf16(x.a), narrow_bf16(x.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(all), _mm256_permute4x64_epi64(packed, 0xd8));
    std::memcpy(p, all, static_cast<size_t>(n) * 2);
}

inline __m256 low_half(__m256i p) { return _mm256_castsi256_ps(_mm256_slli_epi32(p, 16)); }
inline __m256 high_half(__m256i p) {
    return _mm256_castsi256_ps(_mm256_and_si256(p, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline Pairs widen_pairs(__m256i a, __m256i b) { return {{low_half(a), low_half(b)}, {high_half(a), high_half(b)}}; }
inline Pairs load_pairs(const uint32_t* p) {
    return widen_pairs(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                       _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8)));
}
inline Pairs load_pairs(const uint32_t* p, int n) {
    const int* q = reinterpret_cast<const int*>(p);
    return widen_pairs(_mm256_maskload_epi32(q, first_lanes(n)),
                       n > 8 ? _mm256_maskload_epi32(q + 8, first_lanes(n - 8)) : _mm256_setzero_si256());
}
inline Pairs broadcast_pairs(uint32_t p) {
    const __m256i x = _mm256_set1_epi32(static_cast<int>(p));
    const __m256 low = low_half(x), high = high_half(x);
    return {{low, low}, {high, high}};
}

inline Line load_line(const uint32_t* p) { return load_pairs(p); }
inline Line load_line(const uint32_t* p, int n) { return load_pairs(p, n); }
inline Line store_line(uint32_t* p, F a, F b) {
    const __m256i first = _mm256_packus_epi32(narrow_bf16(a.a), narrow_bf16(a.b));
    const __m256i second = _mm256_packus_epi32(narrow_bf16(b.a), narrow_bf16(b.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(first, 0xd8));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), _mm256_permute4x64_epi64(second, 0xd8));
    return load_line(p);
}
inline Line even_only(const Line& a) { return {a.even, zero()}; }
inline Line odd_only(const Line& a) { return {zero(), a.odd}; }
inline Line broadcast_line(uint32_t p) { return broadcast_pairs(p); }
inline F dot(F acc, const Line& w, const Line& a) { return fma(w.odd, a.odd, fma(w.even, a.even, acc)); }
inline F add_word(F acc, const Line& w, const uint32_t* word) { return dot(acc, w, broadcast_line(*word)); }
inline F add_word(F acc, const F& w, const uint32_t* word) {
    return fma(set(__builtin_bit_cast(float, *word)), w, acc);
}

inline void prefetch_near(const void* p) { asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p))); }
inline void prefetch(const void* p) { asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p))); }

}  // namespace
}  // namespace penstock

#include <immintrin.h>

#include "probe.h"

namespace penstock {
namespace {

constexpr int kAccumulators = 16;

double f32(int64_t rounds) {
    __m512 acc[kAccumulators], x = _mm512_set1_ps(1.0f), y = _mm512_set1_ps(1e-9f);
    for (__m512& a : acc) a = _mm512_setzero_ps();
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 16
        for (__m512& a : acc) a = _mm512_fmadd_ps(x, y, a);
        asm volatile("" : "+v"(x), "+v"(y));
    }
    for (__m512& a : acc) asm volatile("" : "+v"(a));
    return static_cast<double>(rounds) * kAccumulators * 16 * 2;
}

double bf16(int64_t rounds) {
    __m512 acc[kAccumulators];
    __m512i x = _mm512_set1_epi16(0x3F80), y = _mm512_set1_epi16(0x3080);
    for (__m512& a : acc) a = _mm512_setzero_ps();
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 16
        for (__m512& a : acc) a = _mm512_dpbf16_ps(a, (__m512bh)x, (__m512bh)y);
        asm volatile("" : "+v"(x), "+v"(y));
    }
    for (__m512& a : acc) asm volatile("" : "+v"(a));
    return static_cast<double>(rounds) * kAccumulators * 32 * 2;
}

double int8(int64_t rounds) {
    __m512i acc[kAccumulators], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(1);
    for (__m512i& a : acc) a = _mm512_setzero_si512();
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 16
        for (__m512i& a : acc) a = _mm512_dpbusd_epi32(a, x, y);
        asm volatile("" : "+v"(x), "+v"(y));
    }
    for (__m512i& a : acc) asm volatile("" : "+v"(a));
    return static_cast<double>(rounds) * kAccumulators * 64 * 2;
}

uint64_t read(const std::byte* data, int64_t bytes) {
    __m512i acc[8] = {};
    for (int64_t i = 0; i + 512 <= bytes; i += 512) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            acc[j] = _mm512_xor_si512(acc[j], _mm512_load_si512(reinterpret_cast<const __m512i*>(data + i) + j));
        }
    }
    for (int j = 1; j < 8; j++) acc[0] = _mm512_xor_si512(acc[0], acc[j]);
    return static_cast<uint64_t>(_mm512_reduce_or_epi64(acc[0]));
}

}  // namespace

const PeakKernels kPeakAvx512 = {f32, bf16, int8, read};

}  // namespace penstock

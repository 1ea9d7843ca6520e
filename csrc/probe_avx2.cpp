#include <immintrin.h>

#include "probe.h"

namespace penstock {
namespace {

// Twelve accumulators hide the latency of a fused multiply-add; the empty asm keeps them from being folded.
double f32(int64_t rounds) {
    __m256 acc[12], x = _mm256_set1_ps(1.0f), y = _mm256_set1_ps(1e-9f);
    for (__m256& a : acc) a = _mm256_setzero_ps();
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 12
        for (__m256& a : acc) a = _mm256_fmadd_ps(x, y, a);
        asm volatile("" : "+x"(x), "+x"(y));
    }
    for (__m256& a : acc) asm volatile("" : "+x"(a));
    return static_cast<double>(rounds) * 12 * 8 * 2;
}

double int8(int64_t rounds) {
    __m256i acc[6], x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(1), one = _mm256_set1_epi16(1);
    for (__m256i& a : acc) a = _mm256_setzero_si256();
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 6
        for (__m256i& a : acc) {
            asm volatile("" : "+x"(x));
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), one));
        }
    }
    for (__m256i& a : acc) asm volatile("" : "+x"(a));
    return static_cast<double>(rounds) * 6 * 32 * 2;
}

uint64_t read(const std::byte* data, int64_t bytes) {
    __m256i acc[4] = {};
    for (int64_t i = 0; i + 128 <= bytes; i += 128) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            acc[j] = _mm256_xor_si256(acc[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(data + i) + j));
        }
    }
    const __m256i all = _mm256_xor_si256(_mm256_xor_si256(acc[0], acc[1]), _mm256_xor_si256(acc[2], acc[3]));
    return static_cast<uint64_t>(_mm256_extract_epi64(all, 0));
}

}  // namespace

const PeakKernels kPeakAvx2 = {f32, nullptr, int8, read};

}  // namespace penstock

#include <cstring>

#include "probe.h"

namespace penstock {
namespace {

double f32(int64_t rounds) {
    using V = float __attribute__((vector_size(16)));
    V acc[8] = {}, x = {1, 1, 1, 1}, y = {1e-9f, 1e-9f, 1e-9f, 1e-9f};
    for (int64_t i = 0; i < rounds; i++) {
        for (V& a : acc) {
            asm volatile("" : "+m"(a));
            a += x * y;
        }
    }
    return static_cast<double>(rounds) * 8 * 4 * 2;
}

uint64_t read(const std::byte* data, int64_t bytes) {
    uint64_t sum[4] = {};
    for (int64_t i = 0; i + 32 <= bytes; i += 32) {
        uint64_t words[4];
        std::memcpy(words, data + i, 32);
        for (int j = 0; j < 4; j++) sum[j] += words[j];
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

}  // namespace

const PeakKernels kPeakGeneric = {f32, nullptr, nullptr, read};

}  // namespace penstock

// Included by sampler_math_*.cpp, each compiled for another instruction set. Vectors are the compiler's own (16 floats,
// 8 doubles, whatever the registers hold), so lanes, and with them the order of every sum, are the same everywhere.
#pragma once
#include <cstring>
#include <limits>

#include "sampler_math.h"

namespace penstock {
namespace {

using F16 = float __attribute__((vector_size(64)));
using D8 = double __attribute__((vector_size(64)));
using L8 = int64_t __attribute__((vector_size(64)));
using I16 = int32_t __attribute__((vector_size(64)));
using F8 = float __attribute__((vector_size(32)));
constexpr float kInf = std::numeric_limits<float>::infinity();

#define PENSTOCK_INLINE static inline __attribute__((always_inline))

template <class V>
PENSTOCK_INLINE void load(const float* x, V& v) {
    std::memcpy(&v, x, sizeof v);
}

// exp(x) for x <= 0: 2^n e^r with |r| <= ln 2 / 2, e^r by its Taylor series to r^13. Within 1 unit in the last place of
// double; below -708 it is 0.
PENSTOCK_INLINE void exp8(D8& x) {
    const D8 low = x - x - 708.0;  // NaN where x is -inf: the comparison below is false, as it should be
    const L8 in_range = x >= low;
    const D8 safe = reinterpret_cast<D8>(in_range & reinterpret_cast<L8>(x));
    const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer in the low bits
    const D8 shifted = safe * 1.4426950408889634 + magic;
    const D8 n = shifted - magic;
    const D8 r = (safe - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    D8 e = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    e = e * r + 1.0 / 39916800.0;
    e = e * r + 1.0 / 3628800.0;
    e = e * r + 1.0 / 362880.0;
    e = e * r + 1.0 / 40320.0;
    e = e * r + 1.0 / 5040.0;
    e = e * r + 1.0 / 720.0;
    e = e * r + 1.0 / 120.0;
    e = e * r + 1.0 / 24.0;
    e = e * r + 1.0 / 6.0;
    e = e * r + 0.5;
    e = e * r + 1.0;
    e = e * r + 1.0;
    const L8 power = (reinterpret_cast<L8>(shifted) + 1023) << 52;
    x = reinterpret_cast<D8>(in_range & reinterpret_cast<L8>(e * reinterpret_cast<D8>(power)));
}

RowScan scan(const float* x, int64_t n) {
    F16 most;
    I16 bad = {};
    for (int j = 0; j < 16; j++) most[j] = -kInf;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        F16 v;
        load(x + i, v);
        bad |= ~(v < kInf);  // NaN and +inf
        most = v > most ? v : most;
    }
    RowScan result{-kInf, true};
    for (int j = 0; j < 16; j++) {
        result.sane &= bad[j] == 0;
        if (most[j] > result.max) result.max = most[j];
    }
    for (; i < n; i++) {
        result.sane &= x[i] < kInf;
        if (x[i] > result.max) result.max = x[i];
    }
    return result;
}

int64_t find(const float* x, int64_t n, float value) {
    for (int64_t i = 0; i < n; i++) {
        if (x[i] == value) return i;
    }
    return 0;
}

int64_t count_greater(const float* x, int64_t n, float value) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) count += x[i] > value;
    return count;
}

double sum_exp(const float* x, int64_t n, float shift, double* sums) {
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += kSumBlock) {
        const int64_t end = begin + kSumBlock < n ? begin + kSumBlock : n;
        D8 acc = {};
        for (int64_t i = begin; i < end; i += 8) {
            F8 v;
            if (i + 8 <= end) {
                load(x + i, v);
            } else {
                for (int j = 0; j < 8; j++) v[j] = i + j < end ? x[i + j] : -kInf;
            }
            D8 e = __builtin_convertvector(v, D8) - static_cast<double>(shift);
            exp8(e);
            acc += e;
        }
        const double sum = ((acc[0] + acc[4]) + (acc[1] + acc[5])) + ((acc[2] + acc[6]) + (acc[3] + acc[7]));
        if (sums != nullptr) sums[begin / kSumBlock] = sum;
        total += sum;
    }
    return total;
}

void divide(const float* x, int64_t n, float by, float* y) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] / by;
}

void group_max(const float* x, int64_t n, float* maxima) {
    for (int64_t begin = 0; begin < n; begin += kMaxGroup) {
        float most = -kInf;
        if (begin + kMaxGroup <= n) {
            F16 v, w;
            load(x + begin, v);
            for (int j = 16; j < kMaxGroup; j += 16) {
                load(x + begin + j, w);
                v = v > w ? v : w;
            }
            for (int j = 0; j < 16; j++) most = v[j] > most ? v[j] : most;
        } else {
            for (int64_t i = begin; i < n; i++) most = x[i] > most ? x[i] : most;
        }
        maxima[begin / kMaxGroup] = most;
    }
}

int64_t at_least(const float* x, int64_t n, float threshold, int32_t* indexes) {
    int64_t count = 0, i = 0;
    for (; i + 64 <= n; i += 64) {
        I16 any = {};
        for (int j = 0; j < 64; j += 16) {
            F16 v;
            load(x + i + j, v);
            any |= v >= threshold;
        }
        L8 folded = reinterpret_cast<L8>(any);
        int64_t hit = 0;
        for (int j = 0; j < 8; j++) hit |= folded[j];
        if (hit == 0) continue;
        for (int64_t j = i; j < i + 64; j++) {
            indexes[count] = static_cast<int32_t>(j);
            count += x[j] >= threshold;
        }
    }
    for (; i < n; i++) {
        indexes[count] = static_cast<int32_t>(i);
        count += x[i] >= threshold;
    }
    return count;
}

}  // namespace
}  // namespace penstock

#define PENSTOCK_SAMPLER_MATH {scan, find, count_greater, sum_exp, divide, group_max, at_least}

// Included by sampler_math_*.cpp, each compiled for another instruction set. Vectors are as wide as its registers, but
// always work in groups of 64 bytes: lanes, and with them the order of every sum, are the same everywhere.
#pragma once
#include <cstring>
#include <limits>

#include "sampler_math.h"

namespace penstock {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kF = kBytes / 4, kD = kBytes / 8;  // lanes
constexpr int kVectors = 64 / kBytes;            // of a group
constexpr float kInf = std::numeric_limits<float>::infinity();

using VF = float __attribute__((vector_size(kBytes)));
using VI = int32_t __attribute__((vector_size(kBytes)));
using VD = double __attribute__((vector_size(kBytes)));
using VL = int64_t __attribute__((vector_size(kBytes)));
using HF = float __attribute__((vector_size(kBytes / 2)));  // as many lanes as VD

#define PENSTOCK_INLINE static inline __attribute__((always_inline))

template <class V>
PENSTOCK_INLINE void load(const float* x, V& v) {
    std::memcpy(&v, x, sizeof v);
}

PENSTOCK_INLINE bool any_of(const VI& lanes) {
    const VL folded = reinterpret_cast<VL>(lanes);
    int64_t hit = 0;
    for (int j = 0; j < kD; j++) hit |= folded[j];
    return hit != 0;
}

// x becomes exp(x), x <= 0: 2^n e^r with |r| <= ln 2 / 2, e^r by its Taylor series to r^13. Within one unit in the last
// place of double; below -708 it is 0.
PENSTOCK_INLINE void exp_of(VD& x) {
    const VL in_range = x >= -708.0;
    const VD safe = reinterpret_cast<VD>(in_range & reinterpret_cast<VL>(x));
    const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer in the low bits
    const VD shifted = safe * 1.4426950408889634 + magic;
    const VD n = shifted - magic;
    const VD r = (safe - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    VD e = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
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
    const VL power = (reinterpret_cast<VL>(shifted) + 1023) << 52;
    x = reinterpret_cast<VD>(in_range & reinterpret_cast<VL>(e * reinterpret_cast<VD>(power)));
}

// e[v][j] = exp(x[v * kD + j] - max) for eight entries, fewer at the end (the others count as -inf).
PENSTOCK_INLINE void exp_group(const float* x, int64_t left, float max, VD (&e)[kVectors]) {
    float tail[8];
    if (left < 8) {
        for (int j = 0; j < 8; j++) tail[j] = j < left ? x[j] : -kInf;
        x = tail;
    }
    for (int v = 0; v < kVectors; v++) {
        HF f;
        load(x + v * kD, f);
        e[v] = __builtin_convertvector(f, VD) - static_cast<double>(max);
        exp_of(e[v]);
    }
}

RowScan scan(const float* x, int64_t n) {
    VF most[kVectors];
    VI bad[kVectors] = {};
    for (VF& m : most) m = VF{} - kInf;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int v = 0; v < kVectors; v++) {
            VF f;
            load(x + i + v * kF, f);
            bad[v] |= ~(f < kInf);  // NaN and +inf
            most[v] = f > most[v] ? f : most[v];
        }
    }
    RowScan result{-kInf, true};
    for (int v = 0; v < kVectors; v++) {
        result.sane &= !any_of(bad[v]);
        for (int j = 0; j < kF; j++) result.max = most[v][j] > result.max ? most[v][j] : result.max;
    }
    for (; i < n; i++) {
        result.sane &= x[i] < kInf;
        if (x[i] > result.max) result.max = x[i];
    }
    return result;
}

int64_t find(const float* x, int64_t n, float value) {
    for (int64_t i = 0; i < n;) {
        if (i + 64 <= n) {
            VI any = {};
            for (int j = 0; j < 64; j += kF) {
                VF f;
                load(x + i + j, f);
                any |= f == value;
            }
            if (!any_of(any)) {
                i += 64;
                continue;
            }
        }
        for (const int64_t end = i + 64 < n ? i + 64 : n; i < end; i++) {
            if (x[i] == value) return i;
        }
    }
    return 0;
}

int64_t count_greater(const float* x, int64_t n, float value) {
    VI counts = {};  // minus one for each; a vocabulary has fewer than 2^31 entries
    int64_t i = 0;
    for (; i + kF <= n; i += kF) {
        VF f;
        load(x + i, f);
        counts += f > value;
    }
    int64_t count = 0;
    for (int j = 0; j < kF; j++) count -= counts[j];
    for (; i < n; i++) count += x[i] > value;
    return count;
}

double sum_exp(const float* x, int64_t n, float max, double* sums) {
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += kSumBlock) {
        const int64_t end = begin + kSumBlock < n ? begin + kSumBlock : n;
        VD acc[kVectors] = {};
        for (int64_t i = begin; i < end; i += 8) {
            VD e[kVectors];
            exp_group(x + i, end - i, max, e);
            for (int v = 0; v < kVectors; v++) acc[v] += e[v];
        }
        double lanes[8], sum = 0;
        std::memcpy(lanes, acc, sizeof lanes);
        for (const double lane : lanes) sum += lane;
        if (sums != nullptr) sums[begin / kSumBlock] = sum;
        total += sum;
    }
    return total;
}

double bin_exp(const float* x, int64_t n, float max, double* masses) {
    double split[4][kBins] = {};  // neighbours often fall into one bin: four sums wait less for each other
    for (int64_t i = 0; i < n; i += 8) {
        VD e[kVectors];
        exp_group(x + i, n - i, max, e);
        double lanes[8];
        std::memcpy(lanes, e, sizeof lanes);
        for (int j = 0; j < 8 && i + j < n; j++) split[j % 4][bin_of(x[i + j], max)] += lanes[j];
    }
    double total = 0;
    for (int b = 0; b < kBins; b++) {
        masses[b] = (split[0][b] + split[1][b]) + (split[2][b] + split[3][b]);
        total += masses[b];
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
            VF m;
            load(x + begin, m);
            for (int j = kF; j < kMaxGroup; j += kF) {
                VF f;
                load(x + begin + j, f);
                m = f > m ? f : m;
            }
            for (int j = 0; j < kF; j++) most = m[j] > most ? m[j] : most;
        } else {
            for (int64_t i = begin; i < n; i++) most = x[i] > most ? x[i] : most;
        }
        maxima[begin / kMaxGroup] = most;
    }
}

int64_t between(const float* x, int64_t n, float low, float high, int32_t* indexes) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += 64) {
        const int64_t end = i + 64 < n ? i + 64 : n;
        if (end == i + 64) {
            VI any = {};
            for (int j = 0; j < 64; j += kF) {
                VF f;
                load(x + i + j, f);
                any |= (f >= low) & (f <= high);
            }
            if (!any_of(any)) continue;
        }
        for (int64_t j = i; j < end; j++) {
            indexes[count] = static_cast<int32_t>(j);
            count += x[j] >= low && x[j] <= high;
        }
    }
    return count;
}

}  // namespace
}  // namespace penstock

#define PENSTOCK_SAMPLER_MATH {scan, find, count_greater, sum_exp, bin_exp, divide, group_max, between}

// The passes over a whole vocabulary, compiled once for each instruction set from one source. All give the same bits.
#pragma once
#include <cstdint>
#include <string_view>

namespace penstock {

// Sums of exponentials are kept for blocks of this many entries, so that a draw looks into one block only.
constexpr int64_t kSumBlock = 1024;
// Maxima are kept for groups of this many entries; they bound the k-th largest entry from below.
constexpr int64_t kMaxGroup = 64;
// Entries sorted roughly, by their distance from the largest in sixteenths; the last bin takes all that is farther.
constexpr int kBins = 512;
constexpr float kBinsPerUnit = 16;

struct RowScan {
    float max;  // of the finite entries and -inf
    bool sane;  // no NaN, no +inf
};

// The bin of an entry; it never falls as the entry does.
inline int bin_of(float x, float max) {
    const float d = (max - x) * kBinsPerUnit;
    return d < kBins - 1 ? static_cast<int>(d) : kBins - 1;
}

struct SamplerMath {
    RowScan (*scan)(const float* x, int64_t n);
    // First index of the value.
    int64_t (*find)(const float* x, int64_t n, float value);
    int64_t (*count_greater)(const float* x, int64_t n, float value);
    // Sum of exp(x - max), x <= max, in double; sums[i] (may be null) of block i.
    double (*sum_exp)(const float* x, int64_t n, float max, double* sums);
    // The same by bin: masses [kBins]; returns their sum.
    double (*bin_exp)(const float* x, int64_t n, float max, double* masses);
    void (*divide)(const float* x, int64_t n, float by, float* y);
    void (*group_max)(const float* x, int64_t n, float* maxima);
    // Indexes of entries with low <= x <= high, in order; returns how many.
    int64_t (*between)(const float* x, int64_t n, float low, float high, int32_t* indexes);
};

extern const SamplerMath kSamplerMathGeneric;
#if defined(__x86_64__)
extern const SamplerMath kSamplerMathAvx2;
extern const SamplerMath kSamplerMathAvx512;
#endif

// The table of an instruction set by its name (isa.h); the generic one for a name it does not know.
inline const SamplerMath& sampler_math([[maybe_unused]] std::string_view isa) {
#if defined(__x86_64__)
    if (isa == "avx512" || isa == "amx") return kSamplerMathAvx512;
    if (isa == "avx2") return kSamplerMathAvx2;
#endif
    return kSamplerMathGeneric;
}

}  // namespace penstock

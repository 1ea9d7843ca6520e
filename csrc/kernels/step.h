// One step of a dot product: a line of weights of 16 output columns meets a word of a row.
#pragma once
#include "kernels/math.h"
#include "kernels/table.h"

namespace penstock {
namespace {

// How a line of weights meets a word of a panel. A step is `kWords` words of each row.
template <Format, Act>
struct Step;

template <>
struct Step<Format::f32, Act::f32> {
    static constexpr int kWords = 1, kInputs = 1, kBytes = 64;
    using Weights = F;
    static Weights load(const std::byte* p) { return penstock::load(reinterpret_cast<const float*>(p)); }
    static F word(uint32_t x) { return set(__builtin_bit_cast(float, x)); }
    template <int J>
    static F add(F acc, const Weights& w, const F& x) {
        return fma(w, x, acc);
    }
};
template <>
struct Step<Format::f16, Act::f32> : Step<Format::f32, Act::f32> {
    static constexpr int kBytes = 32;
    static Weights load(const std::byte* p) { return load_f16(reinterpret_cast<const uint16_t*>(p)); }
};
template <>
struct Step<Format::bf16, Act::f32> {
    static constexpr int kWords = 2, kInputs = 2, kBytes = 64;
    using Weights = Pairs;
    static Weights load(const std::byte* p) { return load_pairs(reinterpret_cast<const uint32_t*>(p)); }
    static F word(uint32_t x) { return set(__builtin_bit_cast(float, x)); }
    template <int J>
    static F add(F acc, const Weights& w, const F& x) {
        return fma(J == 0 ? w.even : w.odd, x, acc);
    }
};
template <>
struct Step<Format::bf16, Act::bf16> {
    static constexpr int kWords = 1, kInputs = 2, kBytes = 64;
    using Weights = Line;
    static Weights load(const std::byte* p) { return load_line(reinterpret_cast<const uint32_t*>(p)); }
    static Line word(uint32_t x) { return broadcast_line(x); }
    template <int J>
    static F add(F acc, const Weights& w, const Line& x) {
        return dot(acc, w, x);
    }
};
template <Format format>
struct Step<format, Act::bf16> {  // rounded inputs meet exact weights
    using One = Step<format, Act::f32>;
    static constexpr int kWords = 1, kInputs = 2, kBytes = 2 * One::kBytes;
    using Weights = Pairs;
    static Weights load(const std::byte* p) { return {One::load(p), One::load(p + One::kBytes)}; }
    static Pairs word(uint32_t x) { return broadcast_pairs(x); }
    template <int J>
    static F add(F acc, const Weights& w, const Pairs& x) {
        return fma(w.odd, x.odd, fma(w.even, x.even, acc));
    }
};

}  // namespace
}  // namespace penstock

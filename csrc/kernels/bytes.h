// Floats as bytes times a scale.
#pragma once
#include "kernels/math.h"
#include "kernels/table.h"

namespace penstock {
namespace {

// The largest magnitude; infinities and NaN make it NaN.
inline float largest(const float* x, int64_t n) {
    F a = zero(), b = zero();
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) a = larger_size(load(x + i), a), b = larger_size(load(x + i + 16), b);
    for (; i < n; i += 16) a = larger_size(load(x + i, static_cast<int>(n - i < 16 ? n - i : 16)), a);
    const float most = largest_size(larger_size(a, b));
    return most - most == 0 ? most : __builtin_nanf("");
}

// n of `filled` numbers and zeros as bytes, where none is larger than 127 / factor; up to 15 bytes after them are
// written too.
inline void round_to_bytes(const float* x, int64_t n, int64_t filled, F factor, int8_t* to) {
    const auto put = [&](int64_t i, F v) { store_i8(to + i, v * factor); };
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) put(i, load(x + i));
    for (; i < filled; i += 16) put(i, load(x + i, static_cast<int>(n > i ? n - i : 0)));
}

}  // namespace
}  // namespace penstock

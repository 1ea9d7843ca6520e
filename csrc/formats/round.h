// Plain numbers made int8 or int4 while they are packed.
#pragma once
#include <atomic>
#include <cstdint>

#include "formats/pack.h"
#include "formats/round_math.h"

namespace penstock {

// Rows of plain numbers to be rounded to `bits` 8 or 4, with a scale for `group` inputs, a divisor of k and a multiple
// of 8 (of 1 with 8 bits where it is k).
struct PlainRows {
    Format format;
    int64_t n, k;
    const void* data;
    int64_t ld;  // elements
    int bits;
    int64_t group;
};
// The largest scale of a matrix must be in this range for float16 to hold all of them well.
constexpr float kLeastHalfScale = 0x1p-14f, kMostHalfScale = 65504;

// Scales and zero points in float16 if `half`, else float32. `largest` takes the largest scale of what was packed.
// Throws std::invalid_argument.
QuantSource rounded_source(const PlainRows& rows, const RoundMath& math, bool half, std::atomic<float>& largest);

}  // namespace penstock

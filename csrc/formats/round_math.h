// Groups of plain numbers as int8 or int4. The arithmetic is that of src/penstock/quant/rounding.py, to the bit,
// compiled once for each instruction set from one source.
#pragma once
#include <cstdint>
#include <string_view>

#include "formats/matrix.h"

namespace penstock {

// One group of inputs of 16 rows: w [group][16].
struct RoundedGroup {
    uint32_t* words;  // [group / 4][16] codes, four of a row in each
    float scales[kTile];
    float zeros[kTile];  // of int4; int8 has its zero at 128
};

struct RoundMath {
    // Inputs k .. k + count of 16 rows as floats [count][16]; count and k are multiples of 8.
    void (*load)(Format format, const uint8_t* const* rows, int64_t k, int64_t count, float* w);
    // Scales and zero points are float16 numbers if `half`.
    void (*int8)(const float* w, int64_t group, bool half, RoundedGroup& out);
    void (*int4)(const float* w, int64_t group, bool half, RoundedGroup& out);
};

extern const RoundMath kRoundMathGeneric;
#if defined(__x86_64__)
extern const RoundMath kRoundMathAvx2;
extern const RoundMath kRoundMathAvx512;
#endif

inline const RoundMath& round_math([[maybe_unused]] std::string_view isa) {
#if defined(__x86_64__)
    if (isa == "avx512" || isa == "amx") return kRoundMathAvx512;
    if (isa == "avx2") return kRoundMathAvx2;
#endif
    return kRoundMathGeneric;
}

}  // namespace penstock

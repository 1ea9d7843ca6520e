// What every weight format states about its memory, one entry a format. A new format is an entry here with its packing
// (formats/<name>.cpp), a Step in kernels/linear.h for each kind of input rows it meets, and a case of `gather`.
#pragma once
#include "formats/matrix.h"
#include "formats/pack_math.h"

namespace penstock {

struct FormatTraits {
    const char* name;
    int element_bytes;  // of the source rows
    int line_inputs;    // k of one line
    int line_bytes;
    // One tile of `rows` <= 16 source rows of k elements, row stride `ld` elements; the rest of the tile is zeros.
    void (*pack)(const PackMath& math, const std::byte* src, int rows, int64_t k, int64_t ld, std::byte* tile);
};

const FormatTraits& traits(Format format);

}  // namespace penstock

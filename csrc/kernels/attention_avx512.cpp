// GCC 12 warns of its own intrinsics' deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "vec/codes_avx512.h"

#include "kernels/attention.h"

namespace penstock {

void add_avx512_attention(Kernels& kernels) { add_attention(kernels); }

}  // namespace penstock

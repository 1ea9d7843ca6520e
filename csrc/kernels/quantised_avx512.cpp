// GCC 12 warns of its own intrinsics' deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "vec/codes_avx512.h"

#include "kernels/quantised.h"

namespace penstock {

void add_avx512_quantised(Kernels& kernels) { add_quantised(kernels); }

}  // namespace penstock

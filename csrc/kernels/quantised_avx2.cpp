#include "vec/codes_avx2.h"

#include "kernels/quantised.h"

namespace penstock {

void add_avx2_quantised(Kernels& kernels) { add_quantised(kernels); }

}  // namespace penstock

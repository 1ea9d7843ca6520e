#include "vec/codes_avx2.h"

#include "kernels/attention.h"

namespace penstock {

void add_avx2_attention(Kernels& kernels) { add_attention(kernels); }

}  // namespace penstock

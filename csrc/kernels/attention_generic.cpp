#include "vec/codes_generic.h"

#include "kernels/attention.h"

namespace penstock {

void add_generic_attention(Kernels& kernels) { add_attention(kernels); }

}  // namespace penstock

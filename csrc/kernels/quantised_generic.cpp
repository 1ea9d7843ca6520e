#include "vec/codes_generic.h"

#include "kernels/quantised.h"

namespace penstock {

void add_generic_quantised(Kernels& kernels) { add_quantised(kernels); }

}  // namespace penstock

#include "formats/pack_impl.h"

namespace penstock {

const PackMath kPackMathAvx512 = PENSTOCK_PACK_MATH;

}  // namespace penstock

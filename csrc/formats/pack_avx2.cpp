#include "formats/pack_impl.h"

namespace penstock {

const PackMath kPackMathAvx2 = PENSTOCK_PACK_MATH;

}  // namespace penstock

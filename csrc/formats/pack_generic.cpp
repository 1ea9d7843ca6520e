#include "formats/pack_impl.h"

namespace penstock {

const PackMath kPackMathGeneric = PENSTOCK_PACK_MATH;

}  // namespace penstock

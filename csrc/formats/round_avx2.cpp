#include "formats/round_impl.h"

namespace penstock {

const RoundMath kRoundMathAvx2 = PENSTOCK_ROUND_MATH;

}  // namespace penstock

#include "formats/round_impl.h"

namespace penstock {

const RoundMath kRoundMathAvx512 = PENSTOCK_ROUND_MATH;

}  // namespace penstock

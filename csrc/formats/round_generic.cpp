#include "formats/round_impl.h"

namespace penstock {

const RoundMath kRoundMathGeneric = PENSTOCK_ROUND_MATH;

}  // namespace penstock

#include "sampler_math_impl.h"

namespace penstock {

const SamplerMath kSamplerMathGeneric = PENSTOCK_SAMPLER_MATH;

}  // namespace penstock

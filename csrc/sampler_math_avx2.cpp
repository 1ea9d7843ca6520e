#include "sampler_math_impl.h"

namespace penstock {

const SamplerMath kSamplerMathAvx2 = PENSTOCK_SAMPLER_MATH;

}  // namespace penstock

#include "sampler_math_impl.h"

namespace penstock {

const SamplerMath kSamplerMathAvx512 = PENSTOCK_SAMPLER_MATH;

}  // namespace penstock

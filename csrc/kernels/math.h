// exp, tanh, erf and the activations over sixteen lanes. The polynomials are least-squares fits weighted towards the
// smallest largest error; with the rounding of float32, exp is right to 2 units in the last place, tanh to 4, erf to
// 1e-7. Included after a vec/ header, by the source file of one instruction set.
#pragma once
#include "ops/ops.h"

namespace penstock {
namespace {

template <int N>
inline F polynomial(F x, const float (&c)[N]) {  // c[0] + c[1] x + ...
    F r = set(c[N - 1]);
#pragma GCC unroll 16
    for (int i = N - 2; i >= 0; i--) r = fma(r, x, set(c[i]));
    return r;
}

inline F exp(F x) {
    constexpr float kTerms[] = {5.000000101e-01f, 1.666651288e-01f, 4.166618737e-02f, 8.369599006e-03f,
                                1.395171119e-03f};
    x = min(set(89), max(set(-105), x));      // beyond: infinity, zero; NaN stays
    const F n = round(x * set(1.44269504f));  // x = n ln 2 + r
    F r = fma(n, set(-0.693359375f), x);      // exact: the first part of ln 2 has few bits
    r = fma(n, set(2.12194440e-4f), r);
    const F e = fma(polynomial(r, kTerms) * r, r, r) + set(1);
    return scale2(e, n);  // the smallest and largest are reached
}

// 2^x for x <= 0; nothing below 2^-150. Rough: to 3e-6 of the value, enough for what is rounded to bf16 next.
template <bool kRough>
inline F exp2(F x) {
    constexpr float kTerms[] = {1.000000000e+00f, 6.931472057e-01f, 2.402264689e-01f, 5.550328777e-02f,
                                9.618488959e-03f, 1.339993122e-03f, 1.534581159e-04f};
    constexpr float kRoughTerms[] = {9.999992614e-01f, 6.931218147e-01f, 2.402474484e-01f, 5.591786028e-02f,
                                     9.570101433e-03f};
    x = max(set(-200), x);  // NaN stays
    const F n = round(x);
    if constexpr (kRough) return scale2(polynomial(x - n, kRoughTerms), n);
    return scale2(polynomial(x - n, kTerms), n);
}

inline F tanh(F x) {
    constexpr float kTerms[] = {-3.333333178e-01f, 1.333324778e-01f,  -5.395247462e-02f,
                                2.173443465e-02f,  -8.267078412e-03f, 2.231052660e-03f};
    const F a = abs(x), square = x * x;
    const F small = fma(polynomial(square, kTerms) * square, x, x);
    const F large = set(1) - set(2) / (exp(a + a) + set(1));
    return select(less(a, set(0.6f)), small, copysign(large, x));
}

inline F erf(F x) {
    constexpr float kTerms[] = {1.128379166e+00f, -3.761262714e-01f, 1.128360017e-01f, -2.685444441e-02f,
                                5.189534990e-03f, -8.020838165e-04f, 7.889109125e-05f};
    constexpr float kLogTerms[] = {3.536780118e-04f,  1.127040209e+00f, 6.382253831e-01f, 1.030376310e-01f,
                                   -2.180544726e-02f, 2.939640418e-03f, -1.855774789e-04f};  // -log(1 - erf(a)), 1 to 4
    const F a = min(set(4), abs(x));
    const F small = x * polynomial(x * x, kTerms);
    const F large = set(1) - exp(zero() - polynomial(a, kLogTerms));
    return select(less(a, set(1)), small, copysign(large, x));
}

inline F sigmoid(F x) { return set(1) / (set(1) + exp(zero() - x)); }

inline F activate(Activation kind, F x) {
    switch (kind) {
        case Activation::none:
            return x;
        case Activation::silu:
            return x / (set(1) + exp(zero() - x));
        case Activation::gelu:
            return set(0.5f) * x * (set(1) + erf(x * set(0.707106781f)));
        case Activation::gelu_tanh: {
            const F inner = set(0.797884561f) * fma(x * x * x, set(0.044715f), x);
            return set(0.5f) * x * (set(1) + tanh(inner));
        }
        case Activation::relu:
            return max(zero(), x);
    }
    return x;
}

}  // namespace
}  // namespace penstock

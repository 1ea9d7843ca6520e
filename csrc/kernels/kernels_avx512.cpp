// GCC 12 warns of its own intrinsics' deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "vec/codes_avx512.h"

#include "kernels/impl.h"

namespace penstock {

const Kernels& avx512_kernels() {
    static const Kernels table = [] {
        Kernels k = make_kernels(add_avx512_attention, add_avx512_quantised);
        k.halves = __builtin_cpu_is("amdfam19h");  // Zen 4; Zen 5 is of another family
        return k;
    }();
    return table;
}

}  // namespace penstock

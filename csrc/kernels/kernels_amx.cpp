// GCC 12 warns of its own intrinsics' deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "vec/amx.h"

#include "kernels/unit_products.h"

namespace penstock {

// What AVX-512 does, but for what a matrix unit does faster.
const Kernels& amx_kernels() {
    static const Kernels table = [] {
        Kernels k = avx512_kernels();
        k.name = "amx";
        add_unit(k);
        add_amx_attention(k);
        return k;
    }();
    return table;
}

}  // namespace penstock

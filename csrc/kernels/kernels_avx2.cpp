#include "vec/codes_avx2.h"

#include "kernels/impl.h"

namespace penstock {

const Kernels& avx2_kernels() {
    static const Kernels table = make_kernels(add_avx2_attention, add_avx2_quantised);
    return table;
}

}  // namespace penstock

#include "vec/codes_generic.h"

#include "kernels/impl.h"

namespace penstock {

const Kernels& generic_kernels() {
    static const Kernels table = make_kernels(add_generic_attention, add_generic_quantised);
    return table;
}

}  // namespace penstock

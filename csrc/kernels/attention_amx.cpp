// GCC 12 warns of its own intrinsics' deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "vec/amx.h"

#include "kernels/attend_panels.h"
#include "kernels/attend_tiles.h"

namespace penstock {

void add_amx_attention(Kernels& k) {
    constexpr int kType = static_cast<int>(KVType::bf16);
    k.attend_rows[kType] = k.attend_rows_many[kType] = kTileRows;
    k.attend_beside[kType] = kPanelsBeside;
    k.attend_unit[kType] = true;
    k.attend[kType] = attend<TileProducts>;
}

}  // namespace penstock

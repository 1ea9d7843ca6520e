// The one source of all instruction sets: kernels_<isa>.cpp includes its vec/ header, then this. What compiles slowly
// is a part of its own: attention_<isa>.cpp, quantised_<isa>.cpp.
#pragma once
#include "kernels/linear.h"
#include "kernels/math.h"
#include "kernels/rows.h"
#include "kernels/table.h"

namespace penstock {
namespace {

// `parts` add what their files hold.
template <class... Parts>
Kernels make_kernels(Parts... parts) {
    static_assert(kMaxRows <= kRowsLimit && kAccumulators * 16 <= kBlockLimit);
    Kernels k{};
    k.name = kIsaName;
    k.panel_rows = kMaxRows;
    for (int rows = 1; rows <= kMaxRows; rows++) k.tiles_at_once[rows] = static_cast<int8_t>(tiles_for(rows));
    const auto at = [&](Format f, Act a) -> TileKernel& { return k.tiles[static_cast<int>(f)][static_cast<int>(a)]; };
    at(Format::f32, Act::f32) = tile_kernel<Format::f32, Act::f32>;
    at(Format::f32, Act::bf16) = tile_kernel<Format::f32, Act::bf16>;
    at(Format::f16, Act::f32) = tile_kernel<Format::f16, Act::f32>;
    at(Format::f16, Act::bf16) = tile_kernel<Format::f16, Act::bf16>;
    at(Format::bf16, Act::f32) = tile_kernel<Format::bf16, Act::f32>;
    at(Format::bf16, Act::bf16) = tile_kernel<Format::bf16, Act::bf16>;
    k.fill_panel = fill_panel;
    k.quantise_row = quantise_row;
    k.finish = finish;
    k.finish_gated = finish_gated;
    k.norm = norm;
    k.elementwise = elementwise;
    k.gather = gather;
    k.rotate = rotate;
    k.store = store_head;
    (parts(k), ...);
    return k;
}

}  // namespace
}  // namespace penstock

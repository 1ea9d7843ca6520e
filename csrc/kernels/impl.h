// The one source of all instruction sets: kernels_<isa>.cpp includes its vec/ header, then this.
#pragma once
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/math.h"
#include "kernels/quantised.h"
#include "kernels/rows.h"
#include "kernels/table.h"

namespace penstock {
namespace {

Kernels make_kernels() {
    static_assert(kMaxRows <= kRowsLimit && kAccumulators * 16 <= kBlockLimit);
    Kernels k{};
    k.name = kIsaName;
    k.panel_rows = kMaxRows;
    k.attend_rows = kMaxRows;
    for (int rows = 1; rows <= kMaxRows; rows++) k.tiles_at_once[rows] = static_cast<int8_t>(tiles_for(rows));
    for (int rows = 1; rows <= kMaxRows; rows++)
        k.quant_tiles_at_once[rows] = static_cast<int8_t>(quant_tiles_for(rows));
    const auto at = [&](Format f, Act a) -> TileKernel& { return k.tiles[static_cast<int>(f)][static_cast<int>(a)]; };
    at(Format::f32, Act::f32) = tile_kernel<Format::f32, Act::f32>;
    at(Format::f32, Act::bf16) = tile_kernel<Format::f32, Act::bf16>;
    at(Format::f16, Act::f32) = tile_kernel<Format::f16, Act::f32>;
    at(Format::f16, Act::bf16) = tile_kernel<Format::f16, Act::bf16>;
    at(Format::bf16, Act::f32) = tile_kernel<Format::bf16, Act::f32>;
    at(Format::bf16, Act::bf16) = tile_kernel<Format::bf16, Act::bf16>;
    k.fill_panel = fill_panel;
    k.quantise_row = quantise_row;
    k.quant_tiles = quant_tiles;
    k.finish = finish;
    k.finish_gated = finish_gated;
    k.norm = norm;
    k.elementwise = elementwise;
    k.gather = gather;
    k.rotate = rotate;
    k.store = store_head;
    k.attend[static_cast<int>(KVType::f32)] = attend_kernel<KVType::f32>;
    k.attend[static_cast<int>(KVType::f16)] = attend_kernel<KVType::f16>;
    k.attend[static_cast<int>(KVType::bf16)] = attend_kernel<KVType::bf16>;
    k.merge = merge;
    k.divide = divide;
    return k;
}

}  // namespace
}  // namespace penstock

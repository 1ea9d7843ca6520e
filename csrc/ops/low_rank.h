// Products with an adapter's factors, for rows that share it: what `lora` and `moe` have in common. Each output is one
// accumulator over k in order, whatever the rows and tiles beside it.
#pragma once
#include <algorithm>

#include "kernels/table.h"
#include "ops/ops.h"

namespace penstock {

inline int64_t low_rank_tiles(int64_t n) { return (n + kTile - 1) / kTile; }

inline int64_t low_rank_even(int64_t k) { return (k + 1) / 2 * 2; }

// The prepared rows of a panel, up to a whole line.
inline int64_t low_rank_panel_bytes(int64_t k, int64_t rank) {
    return (low_rank_even(std::max(k, rank)) * kRowsLimit * 4 + 63) / 64 * 64;
}

// Outputs of tiles [from, to) of `m` for `rows` rows, no more than a panel has: source(i) is row i, done(i, column,
// values, width) takes what comes out. `panel`: low_rank_panel_bytes.
template <class Source, class Done>
void low_rank_product(const Kernels& kernels, const Matrix& m, int rows, int64_t from, int64_t to, uint32_t* panel,
                      Source source, Done done) {
    for (int i = 0; i < rows; i++) kernels.fill_panel(Act::f32, source(i), m.k, panel, rows, i);
    alignas(64) float y[kBlockLimit];
    const int64_t at_once = kernels.tiles_at_once[rows];
    for (int64_t tile = from; tile < to; tile += at_once) {
        const int count = static_cast<int>(std::min(at_once, to - tile));
        const int64_t ld = int64_t{count} * kTile, column = tile * kTile;
        kernels.tiles[static_cast<int>(Format::f32)][static_cast<int>(Act::f32)](
            {m.data + tile * m.tile_bytes, m.tile_bytes, count, panel, rows, low_rank_even(m.k), y, ld});
        for (int i = 0; i < rows; i++) done(i, column, y + i * ld, std::min(ld, m.n - column));
    }
}

}  // namespace penstock

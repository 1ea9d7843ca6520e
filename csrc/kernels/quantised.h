// Dot products of panels of rows with tiles of quantised weights, chunk by
// chunk: what scales a chunk is made ready once for all panels, and so are its
// codes where their form asks for it. Each output takes its groups in order, so
// neither the number of rows nor that of panels shows in the bits.
#pragma once
#include "kernels/group_dots.h"
#include "kernels/table.h"

namespace penstock {
namespace {

// Some tiles at once against all panels of a block.
struct QuantWork {
    const QuantBlock& b;
    const Quant& q;
    const ChunkLayout at;
    const int tiles;
    const std::byte* data;
    float* y;
    alignas(64) float scales[kChunkGroups * kMostTiles * kTile], shifts[kChunkGroups * kMostTiles * kTile];

    QuantWork(const QuantBlock& block, int first, int count)
        : b(block),
          q(block.weight->quant),
          at(q),
          tiles(count),
          data(block.weight->data + (block.tile + first) * block.weight->tile_bytes),
          y(block.y + first * kTile) {}

    void read_scales(const std::byte* chunk, int64_t groups) {
        for (int t = 0; t < tiles; t++)
            chunk_scales(q, at, chunk + t * b.weight->tile_bytes, groups, scales + t * kTile, shifts + t * kTile,
                         tiles * kTile);
    }

    // f(panel, rows, its results)
    template <class Function>
    void panels(int64_t row_words, Function f) const {
        const uint32_t* panel = b.panel;
        float* to = y;
        for (int p = 0; p < b.panels; p++) {
            const int rows = b.rows[p];
            f(panel, rows, to);
            panel += rows * row_words;
            to += rows * b.ldy;
        }
    }

    void run_codes() {
        // A line more for each tile, so that their lines do not fall upon each
        // other in the cache.
        constexpr int64_t kStride = kChunkInputs * 16 + kLineBytes;
        alignas(64) uint8_t bytes[kMostTiles * kStride];
        const int64_t count = q.groups(), row_words = q.row_words();
        // For several panels it pays to take apart once what several lines make up.
        const bool direct = kQuantKernels.of(q.codes) != nullptr && (b.panels == 1 || unit_inputs(q.codes) <= 8);
        const QuantKernels::Groups& kernels = *kQuantKernels.of(direct ? q.codes : CodeKind::u8);
        GroupRun run{};
        run.shifts = q.zeros == ZeroKind::constant ? nullptr : shifts;
        run.scales = scales;
        run.padded = q.padded();
        run.step = q.step;
        run.zero = q.zero;
        run.ldy = b.ldy;
        const std::byte* chunk = data;
        for (int64_t g = 0; g < count; g += q.per_chunk, chunk += at.bytes) {
            run.groups = count - g < q.per_chunk ? count - g : q.per_chunk;
            run.last = q.padded_of(g + run.groups - 1);
            read_scales(chunk, run.groups);
            run.codes = chunk + at.codes;
            run.stride = b.weight->tile_bytes;
            if (!direct) {
                const int64_t inputs = (run.groups - 1) * run.padded + run.last;
                run.stride = kStride;
                for (int t = 0; t < tiles; t++)
                    unpack(q.codes, chunk + t * b.weight->tile_bytes + at.codes, 0, inputs, bytes + t * run.stride);
                run.codes = reinterpret_cast<const std::byte*>(bytes);
            }
            const int64_t words = q.panel_words(g);
            panels(row_words, [&](const uint32_t* panel, int rows, float* to) {
                run.panel = panel + words * rows;
                run.y = to;
                kernels[rows][tiles](run);
            });
        }
    }

    void run_floats() {
        alignas(64) float weights[kMostTiles * kFloatInputs * kTile];
        const int64_t count = q.groups(), row_words = (q.inputs + 1) / 2 * 2;
        FloatRun run{};
        run.weights = weights;
        run.ldy = b.ldy;
        const std::byte* chunk = data;
        int64_t before = 0;
        for (int64_t g = 0; g < count; g += q.per_chunk, chunk += at.bytes) {
            const int64_t groups = count - g < q.per_chunk ? count - g : q.per_chunk;
            const int64_t inputs = (groups - 1) * q.padded() + q.padded_of(g + groups - 1);
            read_scales(chunk, groups);
            for (int64_t from = 0; from < inputs; from += kFloatInputs) {
                const int64_t to = from + kFloatInputs < inputs ? from + kFloatInputs : inputs;
                for (int t = 0; t < tiles; t++)
                    run.n = expand(q, chunk + t * b.weight->tile_bytes + at.codes, g, from, to, scales + t * kTile,
                                   shifts + t * kTile, tiles * kTile, weights + t * kFloatInputs * kTile);
                panels(row_words, [&](const uint32_t* panel, int rows, float* to_y) {
                    run.panel = panel + before * rows;
                    run.y = to_y;
                    kQuantKernels.floats[rows][tiles](run);
                });
                before += run.n;
            }
        }
    }
};

void quant_tiles(const QuantBlock& b) {
    int rows = 0, most = 0;
    for (int p = 0; p < b.panels; p++) rows += b.rows[p], most = b.rows[p] > most ? b.rows[p] : most;
    for (int r = 0; r < rows; r++) std::memset(b.y + r * b.ldy, 0, static_cast<size_t>(b.count) * kTile * 4);
    // Panels differ by a row at most: what suits the larger one is there for the
    // smaller one too, or two tiles are.
    int at_once = quant_tiles_for(most);
    for (int p = 0; p < b.panels; p++)
        if (quant_tiles_for(b.rows[p]) != at_once) at_once = kMostTiles < 2 || quant_tiles_for(b.rows[p]) < 2 ? 1 : 2;
    for (int tile = 0; tile < b.count;) {
        const int left = b.count - tile, count = left >= at_once ? at_once : left >= 2 && at_once > 2 ? 2 : 1;
        QuantWork work(b, tile, count);
        if (b.act == Act::i8)
            work.run_codes();
        else
            work.run_floats();
        tile += count;
    }
}

void add_quantised(Kernels& k) {
    static_assert(kAccumulators * 16 <= kBlockLimit);
    for (int rows = 1; rows <= kMaxRows; rows++)
        k.quant_tiles_at_once[rows] = static_cast<int8_t>(quant_tiles_for(rows));
    k.quant_tiles = quant_tiles;
}

}  // namespace
}  // namespace penstock
